"""Layouts as tokens: the release's numbers, and back without loss."""

import numpy as np
import pytest

from ldm_jax.data.box_tokens import WHOLE, BoxTokens
from ldm_jax.types import UserError

TOKENS = BoxTokens()


def random_layout(seed, tokens=TOKENS, objects=None):
  """Boxes whose corners are places of the grid, and labels."""
  rng = np.random.default_rng(seed)
  n = rng.integers(tokens.max_objects + 1) if objects is None else objects
  places = np.sort(rng.integers(0, tokens.grid, (n, 2, 2)), axis=1)
  boxes = (places / (tokens.grid - 1)).astype(np.float32).reshape(n, 4)
  return boxes, rng.integers(0, tokens.pad, n).astype(np.int32)


def test_the_release_has_90_places_a_side_and_pads_with_8191():
  assert (TOKENS.grid, TOKENS.pad, TOKENS.max_objects) == (90, 8191, 30)


def test_an_object_is_its_class_and_two_corners():
  tokens = TOKENS.encode([[0.1, 0.2, 0.7, 1.0]], [5])
  # token = 90 round(89 y) + round(89 x)
  assert tokens[:3].tolist() == [5, 90 * 18 + 9, 90 * 89 + 62]
  assert (tokens[3:90] == 8191).all()
  assert tokens[90:].tolist() == [0, 90 * 89 + 89]


def test_halves_go_to_the_even_place_as_python_rounds():
  # 89 * 0.5 = 44.5
  assert TOKENS.corner(np.array([0.5, 0.5])) == 90 * 44 + 44


@pytest.mark.parametrize('seed', range(20))
def test_decode_is_the_exact_inverse(seed):
  boxes, labels = random_layout(seed)
  crop = random_layout(seed + 100, objects=1)[0][0]
  tokens = TOKENS.encode(boxes, labels, crop)
  found_boxes, found_labels, found_crop = TOKENS.decode(tokens)
  np.testing.assert_array_equal(found_boxes, boxes)
  np.testing.assert_array_equal(found_labels, labels)
  np.testing.assert_array_equal(found_crop, crop)
  np.testing.assert_array_equal(
    TOKENS.encode(found_boxes, found_labels, found_crop), tokens
  )


def test_any_box_comes_back_within_half_a_place():
  rng = np.random.default_rng(0)
  boxes = np.sort(rng.random((30, 2, 2)), axis=1).reshape(30, 4)
  found, _, _ = TOKENS.decode(TOKENS.encode(boxes, np.arange(30)))
  assert np.abs(found - boxes).max() <= 0.5 / 89 + 1e-6


def test_padding_is_left_out_and_too_many_are_cut():
  boxes, labels = random_layout(0, objects=30)
  labels = labels.copy()
  labels[::2] = -1
  _, found, _ = TOKENS.decode(TOKENS.encode(boxes, labels))
  np.testing.assert_array_equal(found, labels[1::2])
  many = TOKENS.encode(np.tile(boxes, (2, 1)), np.tile(labels, 2) * 0 + 3)
  assert len(TOKENS.decode(many)[1]) == 30


def test_a_square_vocabulary_keeps_its_last_id_for_padding():
  tokens = BoxTokens(vocab_size=64, length=5)
  given = tokens.encode([[0, 0, 1, 1]], [3], (0.5, 0, 1, 1))
  np.testing.assert_array_equal(tokens.encode(*tokens.decode(given)), given)


def test_other_sizes_follow_the_vocabulary():
  small = BoxTokens(vocab_size=66, length=9, crop=False)
  assert (small.grid, small.pad, small.max_objects) == (8, 65, 3)
  boxes, labels = random_layout(1, small, 3)
  tokens = small.encode(boxes, labels)
  assert tokens.shape == (9,)
  found = small.decode(tokens)
  np.testing.assert_array_equal(found[0], boxes)
  np.testing.assert_array_equal(found[2], WHOLE)


@pytest.mark.parametrize('fields', [{'length': 4}, {'vocab_size': 3}])
def test_impossible_forms_are_refused(fields):
  with pytest.raises(UserError, match='layout'):
    BoxTokens(**fields)
