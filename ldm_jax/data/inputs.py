"""A user's images, masks and maps as arrays, checked; for tasks to call.

Every function takes one (no batch) or a batch of them, and keeps that.
"""

from typing import Any

import numpy as np

from ldm_jax.data import images
from ldm_jax.types import UserError


def image(key: str, value: Any) -> np.ndarray:
  """uint8, or float in [-1, 1], [(B) H W 3] -> float32 in [-1, 1]."""
  pixels = _array(key, value, 'uint8, or float in [-1, 1], [(B) H W 3]')
  if pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
    raise UserError(
      f'{key} has the shape {list(pixels.shape)}; it must be [H W 3] or'
      ' [B H W 3].'
    )
  if pixels.dtype == np.uint8:
    return images.to_float(pixels)
  if pixels.dtype.kind != 'f':
    raise UserError(
      f'{key} is {pixels.dtype}; it must be uint8, or float in [-1, 1].'
    )
  pixels = pixels.astype(np.float32)
  # A degraded or resampled image may overshoot a little; 0..255 overshoots a
  # lot.
  if pixels.size and not np.abs(pixels).max() <= 2:
    raise UserError(
      f'{key} holds {pixels.min():.4g} to {pixels.max():.4g}; as float it must'
      ' be in [-1, 1] (uint8 is taken as it is).'
    )
  return pixels


def mask(key: str, value: Any) -> np.ndarray:
  """[(B) H W (1)]: bool, uint8, or float in [0, 1] -> float32 0 or 1, .. 1].

  At least one half is 1. A channel is added where there is none.
  """
  found = _array(key, value, '[(B) H W 1], 1 where to fill')
  if found.dtype.kind not in 'buif':
    raise UserError(f'{key} is {found.dtype}; it must hold numbers.')
  half = 127.5 if found.dtype == np.uint8 and found.max(initial=0) > 1 else 0.5
  if found.dtype.kind == 'f' and not np.all((found >= 0) & (found <= 1)):
    raise UserError(
      f'{key} holds {found.min():.4g} to {found.max():.4g}; it must be 0'
      ' (keep) to 1 (fill).'
    )
  if found.ndim < 3 or found.shape[-1] != 1:
    found = found[..., None]
  if found.ndim not in (3, 4):
    raise UserError(
      f'{key} has the shape {list(np.shape(value))}; it must be [H W 1] or'
      ' [B H W 1].'
    )
  return (found >= half).astype(np.float32)


def check_same_pixels(image: np.ndarray, mask: np.ndarray):
  """Raises UserError where a mask is not of its image's size."""
  if image.shape[-3:-1] != mask.shape[-3:-1]:
    (h, w), (mask_h, mask_w) = image.shape[-3:-1], mask.shape[-3:-1]
    raise UserError(
      f'The mask has {mask_h}x{mask_w} pixels and the image {h}x{w}; they'
      ' must be the same.'
    )


def integers(key: str, value: Any, shape: str) -> np.ndarray:
  """Whole numbers of any type -> int32; `shape` describes it for people."""
  found = _array(key, value, f'whole numbers {shape}')
  if found.dtype.kind == 'f' and np.array_equal(found, np.rint(found)):
    return found.astype(np.int32)
  if found.dtype.kind not in 'bui':
    raise UserError(
      f'{key} is {found.dtype}; it must be whole numbers {shape}.'
    )
  return found.astype(np.int32)


def tokens(value: Any, length: int, vocab_size: int) -> np.ndarray:
  """Token ids [(B) L] -> int32, L at most `length`."""
  found = integers('tokens', value, '[(B) L]')
  outside = found[(found < 0) | (found >= vocab_size)]
  if found.shape[-1] > length or outside.size:
    raise UserError(
      f'tokens {list(found.shape)} must be at most {length} long with ids 0 '
      f'to {vocab_size - 1}.'
    )
  return found


def _array(key: str, value: Any, wanted: str) -> np.ndarray:
  try:
    return np.asarray(value)
  except ValueError as error:
    raise UserError(
      f'{key} has rows of several shapes; it must be one array: {wanted}.'
    ) from error
