"""Images to be continued: holes filled smoothly, borders to be drawn."""

from collections.abc import Sequence

import numpy as np

from ldm_jax.types import UserError


def outpainted(
  image: np.ndarray, margins: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
  """An image on a larger canvas, and the mask of what is to be drawn.

  Args:
    image: [.. H W 3].
    margins: (top, right, bottom, left) in pixels.

  Returns:
    (image [.. H' W' 3], black in the margins; mask [.. H' W' 1], 1 there).

  Raises:
    UserError: margins that are not four numbers from 0 on, one above.
  """
  whole = all(isinstance(m, (int, np.integer)) for m in margins)
  if len(margins) != 4 or not whole or min(margins) < 0 or not any(margins):
    raise UserError(
      f'outpaint={tuple(margins)} must be the pixels to add at the top, right, '
      'bottom and left: four whole numbers from 0 on, and not all 0.'
    )
  top, right, bottom, left = margins
  around = [(0, 0)] * (image.ndim - 3) + [(top, bottom), (left, right), (0, 0)]
  mask = np.zeros((*image.shape[:-1], 1), np.float32)
  low = -1 if image.dtype.kind == 'f' else 0
  return (
    np.pad(image, around, constant_values=low),
    np.pad(mask, around, constant_values=1),
  )


def filled(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Holes in smooth colours of what surrounds them: float [B H W 3].

  Known pixels (mask [B H W 1] below 1/2) stay; what the image held in its
  holes is not looked at, so that it cannot leak through the encoder. Holes
  get, coarse to fine, the means of the known in ever smaller squares.
  """
  weight = (mask < 0.5).astype(np.float32)
  return _filled(image * weight, weight)


def _filled(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
  """Sums of known pixels and how many they are -> means, with no hole."""
  mean = total / np.maximum(weight, 1e-6)
  if min(total.shape[1:3]) <= 1 or weight.min() > 0:
    return mean
  coarse = _filled(_halved(total), _halved(weight))
  height, width = total.shape[1:3]
  coarse = coarse.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
  return np.where(weight > 0, mean, _blurred(coarse))


def _halved(x: np.ndarray) -> np.ndarray:
  """Sums of 2 x 2 squares; the last of an odd side stands alone."""
  odd = [(0, side % 2) for side in x.shape[1:3]]
  x = np.pad(x, [(0, 0), *odd, (0, 0)])
  return x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]


def _blurred(x: np.ndarray) -> np.ndarray:
  """Means of 3 x 3 squares."""
  for axis in (1, 2):
    around = [(0, 0)] * 4
    around[axis] = (1, 1)
    wide = np.pad(x, around, mode='edge')
    n = x.shape[axis]
    x = sum(wide.take(range(i, i + n), axis) for i in range(3)) / 3
  return x


def blocks(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """mask [B H W 1] -> [B h w 1]: 1 where a whole block of pixels is known."""
  b, height, width, _ = mask.shape
  h, w = size
  split = (mask < 0.5).reshape(b, h, height // h, w, width // w)
  return split.all(axis=(2, 4))[..., None].astype(np.float32)
