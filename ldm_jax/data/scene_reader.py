"""Says what an image of `scenes` shows, from its pixels alone.

Rules, no learning: things are vivid and the ground is grey, hue tells the
colour, and the shape is the one whose outline fits best. It reads real scenes,
reconstructions and samples alike, and so it scores them all.
"""

import colorsys
import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage, optimize

from ldm_jax.data import scene_shapes, scenes
from ldm_jax.data.scene_captions import SHAPES, Thing, parse_caption

# Measured on 2,000 scenes: the median chroma of the ground stays below 0.12,
# that of a thing above 0.32; the smallest thing covers 3% of the image; every
# thing fits its outline to 0.97, half of all random blobs fit none to 0.86.
MIN_CHROMA = 0.17
MIN_AREA = 0.012
MIN_FIT = 0.88

UNREADABLE = 'unreadable'  # the shape of a blob that fits none

# Area of each shape of radius 1.
_AREAS = {
  'circle': math.pi,
  'square': 4 * scene_shapes.SQUARE_SIDE**2,
  'triangle': 3 * math.sqrt(3) / 4 * scene_shapes.TRIANGLE_RADIUS**2,
  'cross': 4
  * scene_shapes.CROSS_WIDTH
  * (2 * scene_shapes.CROSS_LENGTH - scene_shapes.CROSS_WIDTH),
  'ring': math.pi * (scene_shapes.RING_OUTER**2 - scene_shapes.RING_INNER**2),
}
# Outlines are tried at these shares of the radius that the area suggests
# (blur adds area), in ten rotations of the angle, in degrees, after which a
# shape looks the same.
_STRETCHES = np.array([0.86, 0.93, 1.0, 1.07], np.float32)[:, None, None]
_PERIODS = {'circle': 0, 'ring': 0, 'square': 90, 'cross': 90, 'triangle': 120}


@dataclasses.dataclass(frozen=True)
class Seen:
  """A thing found in an image; positions in shares of the side, y down."""

  colour: str
  shape: str  # one of SHAPES, or UNREADABLE
  place: str
  x: float
  y: float
  box: tuple[float, float, float, float]  # x0 y0 x1 y1
  mask: np.ndarray  # bool [H W]
  fit: float  # likeness to the best outline, 0..1

  @property
  def thing(self) -> Thing:
    return Thing(self.colour, self.shape, self.place)


def read(image: np.ndarray) -> list[Seen]:
  """The things in a square image, uint8 [H W 3], largest first."""
  if image.dtype != np.uint8 or image.shape != (len(image), len(image), 3):
    raise ValueError(
      f'The reader takes square uint8 RGB images, not {image.dtype}'
      f' {image.shape}.'
    )
  pixels = image.astype(np.float64) / 255
  blobs, num = _blobs(pixels)
  # Every pixel belongs to the nearest blob, so neighbours don't blur together.
  away, nearest = ndimage.distance_transform_edt(
    blobs == 0, return_indices=True
  )
  owner = blobs[tuple(nearest)]
  reach = max(2.0, 2.0 * len(image) / 32)
  ground = _tint(pixels[blobs == 0]).mean(0) if np.any(blobs == 0) else 0
  found = [
    _look(pixels, blobs == k, (owner == k) & (away <= reach), ground)
    for k in range(1, num + 1)
  ]
  found = [seen for seen in found if seen is not None]
  return sorted(found, key=lambda seen: -seen.mask.sum())


def segment(image: np.ndarray) -> np.ndarray:
  """Class indices int32 [H W], comparable with an example's `segmentation`.

  Blobs of no readable shape count as ground, 0.
  """
  segmentation = np.zeros(image.shape[:2], np.int32)
  for seen in read(image):
    if seen.shape != UNREADABLE:
      segmentation[seen.mask] = 1 + scenes.label_of(seen.thing)
  return segmentation


def score(image: np.ndarray, wanted: str | Sequence[Thing]) -> dict[str, bool]:
  """Whether an image obeys a caption, or things: colour, shape, place, count.

  As many things as were wanted, the largest, are paired with the wanted ones
  to the best total; an aspect holds if it does for every pair. `all` is the
  four together.
  """
  if isinstance(wanted, str):
    wanted = parse_caption(wanted)
  found = read(image)
  pairs = _pair(wanted, found[: len(wanted)])
  enough = len(pairs) == len(wanted)
  result = {
    aspect: enough
    and all(getattr(a, aspect) == getattr(b, aspect) for a, b in pairs)
    for aspect in ('colour', 'shape', 'place')
  }
  result['count'] = len(found) == len(wanted)
  result['all'] = all(result.values())
  return result


def scores(
  images: Iterable[np.ndarray], wanted: Iterable[str | Sequence[Thing]]
) -> dict[str, float]:
  """The share of images that obey, by aspect; see `score`."""
  results = [
    score(image, things) for image, things in zip(images, wanted, strict=True)
  ]
  if not results:
    raise ValueError('No images to score.')
  return {
    aspect: float(np.mean([result[aspect] for result in results]))
    for aspect in results[0]
  }


def _pair(wanted: Sequence[Thing], found: Sequence[Seen]) -> list[tuple]:
  agree = [
    [
      (a.place == b.place) + (a.colour == b.colour) + (a.shape == b.shape)
      for b in found
    ]
    for a in wanted
  ]
  if not found:
    return []
  rows, columns = optimize.linear_sum_assignment(agree, maximize=True)
  return [(wanted[i], found[j]) for i, j in zip(rows, columns, strict=True)]


def _tint(pixels: np.ndarray) -> np.ndarray:
  """Colour without its grey part: mixes stay mixes, shadows nearly vanish."""
  return pixels - pixels.mean(-1, keepdims=True)


def _blobs(pixels: np.ndarray) -> tuple[np.ndarray, int]:
  """Labels 1..num of the vivid blobs [H W], 0 elsewhere."""
  chroma = np.ptp(pixels, axis=-1)
  vivid = chroma > max(MIN_CHROMA, 0.1 + np.median(chroma))
  blobs, num = ndimage.label(vivid, np.ones((3, 3)))
  areas = np.bincount(blobs.ravel(), minlength=num + 1)
  large = areas >= MIN_AREA * vivid.size
  large[0] = False
  names = np.where(large, np.cumsum(large), 0)
  return names[blobs], int(large.sum())


def _look(
  pixels: np.ndarray, blob: np.ndarray, around: np.ndarray, ground: np.ndarray
) -> Seen | None:
  """Reads one blob; `around` is where its faint edge may reach."""
  size = len(pixels)
  tint = _tint(pixels) - ground
  strength = np.linalg.norm(tint, axis=-1)
  core = blob & (strength >= np.median(strength[blob]))
  peak = tint[core].mean(0)
  # How much of each pixel the thing covers, as the edge mixes it in.
  cover = np.clip(tint @ peak / max(peak @ peak, 1e-6), 0, 1) * around
  mask = cover >= 0.5
  if mask.sum() < MIN_AREA * mask.size:
    return None
  x, y = scene_shapes.pixel_grid(size)
  total = cover.sum()
  centre = float((cover * x).sum() / total), float((cover * y).sum() / total)
  shape, fit = _best_shape(cover, *centre)
  rows, columns = np.nonzero(mask)
  return Seen(
    colour=_colour(pixels[core].mean(0)),
    shape=shape if fit >= MIN_FIT else UNREADABLE,
    place=scenes.place_of(*centre),
    x=centre[0],
    y=centre[1],
    box=(
      float(columns.min()) / size,
      float(rows.min()) / size,
      float(columns.max() + 1) / size,
      float(rows.max() + 1) / size,
    ),
    mask=mask,
    fit=fit,
  )


def _colour(rgb: np.ndarray) -> str:
  hue = 360 * colorsys.rgb_to_hsv(*rgb)[0]
  away = {
    name: abs((hue - entry[0] + 180) % 360 - 180)
    for name, entry in scenes.PALETTE.items()
  }
  return min(away, key=away.get)


@functools.lru_cache
def _poses(shape: str) -> tuple[float, ...]:
  period = math.radians(_PERIODS[shape])
  num = 10 if period else 1
  return tuple(period * k / num for k in range(num))


def _best_shape(cover: np.ndarray, x: float, y: float) -> tuple[str, float]:
  """(shape, likeness) of the outline closest to a coverage map [H W].

  Likeness is the cosine of the two, so that a blurred thing, whose coverage
  never reaches one, is compared with equally blurred outlines.
  """
  size = len(cover)
  rows, columns = np.nonzero(cover > 0.02)
  rows = slice(max(rows.min() - 2, 0), rows.max() + 3)
  columns = slice(max(columns.min() - 2, 0), columns.max() + 3)
  grid_x, grid_y = scene_shapes.pixel_grid(size)
  dx, dy = grid_x[:, columns] - np.float32(x), grid_y[rows] - np.float32(y)
  total, cover = cover.sum(), cover[rows, columns].astype(np.float32)
  best = {}
  for shape in SHAPES:
    radius = math.sqrt(total / _AREAS[shape]) / size
    radii = np.float32(radius) * _STRETCHES  # [R 1 1]
    away = np.concatenate(
      [
        radii * scene_shapes.distance(shape, dx / radii, dy / radii, rotation)
        for rotation in _poses(shape)
      ]
    )
    sharp = np.clip(0.5 - size * away, 0, 1)
    best[shape] = max(
      _likeness(cover, sharp),
      *(
        _likeness(cover, ndimage.gaussian_filter(sharp, (0, blur, blur)))
        for blur in (0.02 * size, 0.035 * size)
      ),
    )
  shape = max(best, key=best.get)
  return shape, best[shape]


def _likeness(cover: np.ndarray, outlines: np.ndarray) -> float:
  """The largest cosine between a map [H W] and some outlines [K H W]."""
  dots = np.einsum('hw,khw->k', cover, outlines)
  norms = np.einsum('khw,khw->k', outlines, outlines)
  return float(np.max(dots / np.sqrt(norms + 1e-9)) / np.linalg.norm(cover))
