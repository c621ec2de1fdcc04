"""The shapes of `scenes`: their boxes, and distances to them."""

import functools
import math

import numpy as np

# Extents in units of the radius; chosen for roughly equal areas.
SQUARE_SIDE = 0.88  # half a side
TRIANGLE_RADIUS = 1.28  # circumradius
CROSS_LENGTH, CROSS_WIDTH = 1.20, 0.36  # half length, half width of an arm
RING_OUTER, RING_INNER = 1.12, 0.58


def extent(shape: str, rotation: float) -> tuple[float, float, float, float]:
  """The tight box of a shape of radius 1 around its centre."""
  cos, sin = abs(math.cos(rotation)), abs(math.sin(rotation))
  if shape == 'triangle':
    corners = [rotation + math.pi * (k / 1.5 - 0.5) for k in range(3)]
    xs = [TRIANGLE_RADIUS * math.cos(a) for a in corners]
    ys = [TRIANGLE_RADIUS * math.sin(a) for a in corners]
    return min(xs), min(ys), max(xs), max(ys)
  half = {
    'circle': 1.0,
    'ring': RING_OUTER,
    'square': SQUARE_SIDE * (cos + sin),
    'cross': max(
      CROSS_LENGTH * cos + CROSS_WIDTH * sin,
      CROSS_WIDTH * cos + CROSS_LENGTH * sin,
    ),
  }[shape]
  return -half, -half, half, half


def distance(
  shape: str, x: np.ndarray, y: np.ndarray, rotation: float
) -> np.ndarray:
  """Signed distance of points to a shape of radius 1; negative inside."""
  if shape == 'circle':
    return np.hypot(x, y) - 1.0
  if shape == 'ring':
    middle = (RING_OUTER + RING_INNER) / 2
    return np.abs(np.hypot(x, y) - middle) - (RING_OUTER - RING_INNER) / 2
  cos, sin = math.cos(rotation), math.sin(rotation)
  u, v = cos * x + sin * y, cos * y - sin * x
  if shape == 'triangle':  # One corner up; a face's distance is half a radius.
    slanted = (math.sqrt(3) / 2) * np.abs(u) - 0.5 * v
    return np.maximum(slanted, v) - TRIANGLE_RADIUS / 2
  u, v = np.abs(u), np.abs(v)
  if shape == 'square':
    return np.maximum(u, v) - SQUARE_SIDE
  long, short = np.maximum(u, v), np.minimum(u, v)
  return np.maximum(long - CROSS_LENGTH, short - CROSS_WIDTH)


@functools.lru_cache
def pixel_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Pixel centres in shares of the side: x [1 W], y [H 1]."""
  line = ((np.arange(size) + 0.5) / size).astype(np.float32)
  return line[None, :], line[:, None]
