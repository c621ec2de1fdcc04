"""Structural similarity (Wang et al. 2004)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.types import Array, UserError

WINDOW = 11


def ssim(
  x: np.ndarray, y: np.ndarray, peak: float = 255.0, padding: str = 'valid'
) -> np.ndarray:
  """Mean over pixels and channels of pairs [B H W C]: [B], 1 for equal ones.

  Gaussian windows of 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03.

  Args:
    x, y: images.
    peak: their range: 255 for uint8.
    padding: 'valid', windows inside the image alone, as in the paper; or
      'zero', windows at every pixel and zeros outside, as LaMa's evaluation.

  Raises:
    UserError: images smaller than a window.
  """
  if min(x.shape[1:3]) < WINDOW:
    raise UserError(
      f'SSIM has windows of {WINDOW} pixels; the images are '
      f'{x.shape[1]}x{x.shape[2]}.'
    )
  pair = [np.asarray(image, np.float32) / np.float32(peak) for image in (x, y)]
  return np.asarray(_ssim(*pair, zero=padding == 'zero'))


@functools.partial(jax.jit, static_argnames='zero')
def _ssim(x: Array, y: Array, zero: bool) -> Array:
  blur = functools.partial(_blur, zero=zero)
  # Moments about the image's grey, not about black: they cancel less.
  middle = jnp.mean(x, axis=(1, 2, 3), keepdims=True)
  ones = blur(jnp.ones_like(x))  # Below 1 where zeros are in the window.
  x, y = x - middle, y - middle
  a, b = blur(x), blur(y)
  # E[(u + m)(v + m)] - E[u + m] E[v + m] about the middle m.
  rest = 1 - ones
  about = lambda u, v, uv: (
    blur(uv) - u * v + middle * rest * (u + v) + middle**2 * ones * rest
  )
  xx, yy, xy = about(a, a, x * x), about(b, b, y * y), about(a, b, x * y)
  a, b = a + middle * ones, b + middle * ones
  c1, c2 = 0.01**2, 0.03**2
  value = (2 * a * b + c1) * (2 * xy + c2)
  value /= (a * a + b * b + c1) * (xx + yy + c2)
  return jnp.mean(value, axis=(1, 2, 3))


def _blur(x: Array, zero: bool) -> Array:
  """Windowed means of each channel, rows and then columns."""
  away = np.arange(WINDOW) - WINDOW // 2
  weights = np.exp(-np.square(away) / (2 * 1.5**2))
  weights = (weights / weights.sum()).astype(np.float32)
  half = WINDOW // 2 if zero else 0
  channels = x.shape[-1]
  for shape, pad in (
    ((WINDOW, 1, 1, 1), ((half, half), (0, 0))),
    ((1, WINDOW, 1, 1), ((0, 0), (half, half))),
  ):
    kernel = jnp.tile(weights.reshape(shape), (1, 1, 1, channels))
    x = jax.lax.conv_general_dilated(
      x,
      kernel,
      (1, 1),
      pad,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=channels,
      precision=jax.lax.Precision.HIGHEST,
    )
  return x
