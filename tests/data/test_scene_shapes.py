"""Shapes, their boxes and their distances agree."""

import numpy as np
import pytest

from ldm_jax.data import scene_shapes
from ldm_jax.data.scene_captions import SHAPES


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('rotation', [-0.2, 0.0, 0.1])
def test_a_box_is_that_of_the_points_inside(shape, rotation):
  line = np.linspace(-1.5, 1.5, 601)
  x, y = line[None, :], line[:, None]
  inside = scene_shapes.distance(shape, x, y, rotation) <= 0
  columns, rows = line[inside.any(0)], line[inside.any(1)]
  seen = columns[0], rows[0], columns[-1], rows[-1]
  box = scene_shapes.extent(shape, rotation)
  np.testing.assert_allclose(box, seen, atol=0.011)


@pytest.mark.parametrize('shape', SHAPES)
def test_distances_are_no_longer_than_the_way(shape):
  points = np.random.default_rng(0).uniform(-2, 2, (2, 2, 1000))
  one, other = (scene_shapes.distance(shape, x, y, 0.1) for x, y in points)
  way = np.hypot(*(points[0] - points[1]))
  assert (np.abs(one - other) <= way + 1e-9).all()


def test_pixel_centres_are_half_a_pixel_from_the_sides():
  x, y = scene_shapes.pixel_grid(4)
  np.testing.assert_allclose(x[0], [0.125, 0.375, 0.625, 0.875])
  np.testing.assert_array_equal(x.T, y)
