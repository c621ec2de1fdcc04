"""Pictures to be looked at: of conditions, and of many images side by side."""

import colorsys
import functools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

_PAPER, _HOLE = (255, 255, 255), (127, 127, 127)


@functools.lru_cache(maxsize=4096)
def colour(index: int) -> tuple[int, int, int]:
  """A class's colour: neighbours differ, and it never changes."""
  if index < 0:
    return (0, 0, 0)
  # Steps of the golden angle never come near to an earlier hue soon.
  hue = index * 0.618034 % 1
  value = (0.95, 0.7, 0.5)[index % 3]
  return tuple(round(255 * x) for x in colorsys.hsv_to_rgb(hue, 0.8, value))


def boxes(
  corners: np.ndarray, labels: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
  """Outlines in the classes' colours, numbered: uint8 [H W 3].

  corners [N 4] are x0 y0 x1 y1 in [0, 1]; size is (H, W). Large boxes come
  first, so that none is hidden.
  """
  height, width = size
  paper = Image.new('RGB', (width, height), _PAPER)
  pen = ImageDraw.Draw(paper)
  thick = max(1, min(size) // 100)
  sides = corners[:, 2:] - corners[:, :2]
  for i in np.argsort(-sides.prod(1), kind='stable'):
    scaled = corners[i] * [width - 1, height - 1, width - 1, height - 1]
    x0, y0, x1, y1 = np.rint(scaled).astype(int).tolist()
    shade = colour(int(labels[i]))
    pen.rectangle((x0, y0, x1, y1), outline=shade, width=thick)
    if min(size) >= 128:  # There is room for numbers.
      pen.text((x0 + thick + 2, y0 + thick), str(labels[i]), fill=shade)
  return np.asarray(paper)


def classes(segmentation: np.ndarray) -> np.ndarray:
  """Maps int [.. H W] in the classes' colours: uint8 [.. H W 3]."""
  found, places = np.unique(segmentation, return_inverse=True)
  table = np.array([colour(int(i)) for i in found], np.uint8)
  return table[places.reshape(np.shape(segmentation))]


def masked(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """uint8 [.. H W 3], grey where mask [.. H W 1] is 1."""
  return np.where(mask >= 0.5, np.uint8(_HOLE), image)


def enlarged(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """uint8 [B h w 3] in large pixels: [B H W 3]."""
  height, width = size
  rows = np.arange(height) * images.shape[1] // height
  columns = np.arange(width) * images.shape[2] // width
  return images[:, rows][:, :, columns]


def grid(
  images: Sequence[np.ndarray], columns: int = 0, gap: int = 0
) -> np.ndarray:
  """Images uint8 [H W 3] row by row on white, `gap` pixels around each.

  As near to a square as they come, where `columns` is 0.
  """
  images = np.asarray(images)
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
    raise ValueError(
      f'Expected uint8 [N H W 3], got {images.dtype} {images.shape}.'
    )
  count, height, width, _ = images.shape
  columns = min(columns or math.ceil(math.sqrt(count)), count)
  rows = math.ceil(count / columns)
  height, width = height + gap, width + gap
  sheet = np.full(
    (rows * height + gap, columns * width + gap, 3), _PAPER, np.uint8
  )
  for i, image in enumerate(images):
    y, x = divmod(i, columns)
    place = sheet[gap + y * height :, gap + x * width :]
    place[: image.shape[0], : image.shape[1]] = image
  return sheet
