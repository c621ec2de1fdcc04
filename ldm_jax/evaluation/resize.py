"""Resizing as feature networks were fed when their metrics were defined."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.types import Array


@functools.partial(jax.jit, static_argnames='size')
def bilinear_tf1(images: Array, size: tuple[int, int]) -> Array:
  """images [B H W C] of any type -> float32 [B *size C], as TensorFlow 1.

  Pixel i of the result lies at i * in / out: neither half a pixel inward nor
  antialiased when it shrinks. Four neighbours are mixed along x and then y.
  """
  x = images.astype(jnp.float32)
  (top, bottom, fy), (left, right, fx) = (
    _neighbours(x.shape[axis], size[axis - 1]) for axis in (1, 2)
  )
  fx, fy = fx[None, None, :, None], fy[None, :, None, None]
  mix = lambda row: row[:, :, left] + (row[:, :, right] - row[:, :, left]) * fx
  upper, lower = mix(x[:, top]), mix(x[:, bottom])
  return upper + (lower - upper) * fy


def _neighbours(before: int, after: int):
  """(lower, upper, share of the upper) along an axis, in float32 as there."""
  place = np.arange(after, dtype=np.float32) * (
    np.float32(before) / np.float32(after)
  )
  lower = np.floor(place).astype(np.int32)
  upper = np.minimum(lower + 1, before - 1)
  return lower, upper, place - lower.astype(np.float32)
