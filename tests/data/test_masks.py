"""Masks have the stated form, sizes and shares, and follow the seed."""

import dataclasses

import numpy as np
import pytest

from ldm_jax.data import masks
from ldm_jax.data.masks import SETTINGS, Boxes, MaskSpec, Strokes
from ldm_jax.types import UserError


def drawn(spec, count, size=256, seed=0):
  rng = np.random.default_rng(seed)
  return np.stack([masks.draw(rng, size, size, spec) for _ in range(count)])


@pytest.mark.parametrize('name', SETTINGS)
def test_masks_are_zeros_and_ones_and_never_empty(name):
  found = drawn(SETTINGS[name], 20)
  assert found.shape == (20, 256, 256, 1) and found.dtype == np.float32
  assert set(np.unique(found)) == {0.0, 1.0}
  assert found.any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize('name', [n for n in SETTINGS if n != 'lama_256'])
def test_evaluation_masks_cover_half_at_most(name):
  assert drawn(SETTINGS[name], 40).mean(axis=(1, 2, 3)).max() <= 0.5


def test_the_same_seed_is_the_same_mask():
  spec = SETTINGS['lama_256']
  np.testing.assert_array_equal(drawn(spec, 3, seed=4), drawn(spec, 3, seed=4))
  assert (drawn(spec, 3, seed=4) != drawn(spec, 3, seed=5)).any()


def test_boxes_have_the_stated_sides_margin_and_number():
  spec = MaskSpec(Strokes((1, 1), 4, 1, 1), Boxes((1, 4), (30, 150), 10), 1.0)
  found = drawn(spec, 300)[..., 0]
  assert not found[:, :10].any() and not found[:, -10:].any()
  assert not found[:, :, :10].any() and not found[:, :, -10:].any()
  assert found[:, 10].any() and found[:, :, -11].any()
  single = MaskSpec(spec.strokes, Boxes((1, 1), (30, 150), 10), 1.0)
  sides = []
  for mask in drawn(single, 400)[..., 0]:
    rows, columns = mask.any(1), mask.any(0)
    assert mask.sum() == rows.sum() * columns.sum()  # A full rectangle.
    sides += [rows.sum(), columns.sum()]
  assert min(sides) == 30 and max(sides) == 150
  assert np.mean(sides) == pytest.approx(90, abs=4)


@pytest.mark.parametrize(
  'name, share', [('lama_256', 0.5), ('medium_256', 0.3 / 1.3)]
)
def test_share_of_boxes(name, share):
  none = dataclasses.replace(SETTINGS[name].strokes, times=(0, 0))
  spec = dataclasses.replace(SETTINGS[name], strokes=none)
  is_box = drawn(spec, 1000, 64).any(axis=(1, 2, 3))
  assert is_box.mean() == pytest.approx(share, abs=0.05)


def test_one_straight_stroke_has_the_stated_length_and_width():
  spec = Strokes((1, 1), 1, 200, 100)
  widths = []
  rng = np.random.default_rng(0)
  for _ in range(60):
    mask = masks.draw(rng, 2000, 2000, MaskSpec(spec, size=2000))[..., 0]
    # max_angle 1: always 0.01 radians, almost straight down or up, so the
    # width of the chain is that of its widest piece.
    widths.append(mask.any(0).sum())
    assert mask.any(1).sum() <= 5 * 210 + 106
  assert 5 <= min(widths) and max(widths) <= 105 + 5 * 210 * 0.01 + 2


def test_sizes_follow_the_image():
  spec = SETTINGS['lama_256']
  small = drawn(spec, 300, 32).mean()
  assert small == pytest.approx(drawn(spec, 300, 256).mean(), abs=0.05)


def test_images_need_not_be_square():
  found = masks.draw(np.random.default_rng(0), 64, 96, SETTINGS['thick_256'])
  assert found.shape == (64, 96, 1)


def test_unknown_settings_are_refused_by_name():
  with pytest.raises(UserError, match="'lama'.*thin_256"):
    masks.check('lama')
