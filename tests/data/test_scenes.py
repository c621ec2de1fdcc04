"""Tests for ldm_jax.data.scenes."""

import itertools
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from ldm_jax.data import scenes
from ldm_jax.data.scene_captions import COLOURS, PLACES, SHAPES, parse_caption
from ldm_jax.data.scenes import Scenes
from ldm_jax.types import UserError


def things(source):
  return [
    placed for index in range(len(source)) for placed in source.scene(index)
  ]


def test_an_index_is_always_the_same_scene():
  source = Scenes(10, max_objects=3, seed=3)
  again = pickle.loads(pickle.dumps(source))
  for index in (7, 2):
    example, other = source[index], again[index]
    assert example['text'] == other['text'] == source.caption(index)
    for key in ('image', 'boxes', 'box_labels', 'segmentation'):
      np.testing.assert_array_equal(example[key], other[key])


def test_a_longer_split_begins_with_the_shorter_one():
  np.testing.assert_array_equal(Scenes(5)[4]['image'], Scenes(50)[4]['image'])


def test_no_two_scenes_are_equal_within_or_across_splits_and_seeds():
  sources = [Scenes(50, split=split) for split in scenes.SPLITS]
  sources.append(Scenes(50, seed=1))
  images = [
    source[i]['image'].tobytes() for source in sources for i in range(50)
  ]
  assert len(set(images)) == len(images)


@pytest.mark.parametrize('size', [32, 64])
def test_examples_have_the_promised_shapes_and_types(size):
  source = Scenes(8, size=size, max_objects=3)
  for index in range(8):
    example = source[index]
    num = len(example['boxes'])
    assert 1 <= num <= 3
    assert example['image'].shape == (size, size, 3)
    assert example['image'].dtype == np.uint8
    assert example['boxes'].shape == (num, 4)
    assert example['boxes'].dtype == np.float32
    assert example['box_labels'].shape == (num,)
    assert example['box_labels'].dtype == np.int32
    assert example['segmentation'].shape == (size, size)
    assert example['segmentation'].dtype == np.int32
    assert example['label'] == example['box_labels'][0]


@pytest.mark.parametrize('index', range(40))
def test_boxes_hug_the_segmentation(index):
  example = Scenes(40, size=64, max_objects=3)[index]
  assert set(np.unique(example['segmentation'])) == {
    0, *(1 + example['box_labels'])
  }  # fmt: skip
  if len(set(example['box_labels'])) < len(example['box_labels']):
    return  # Two things of one class share a segment.
  for box, label in zip(example['boxes'], example['box_labels'], strict=True):
    rows, columns = np.nonzero(example['segmentation'] == 1 + label)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(64 * box, seen, atol=2.2)


def test_captions_name_what_the_scene_holds():
  source = Scenes(200, max_objects=3)
  for index in range(200):
    named = parse_caption(source.caption(index))
    assert named == [placed.thing for placed in source.scene(index)]


def test_a_place_follows_from_the_centre_with_a_margin_of_a_pixel():
  for placed in things(Scenes(500, max_objects=3)):
    for dx in (-1 / 32, 0, 1 / 32):
      for dy in (-1 / 32, 0, 1 / 32):
        place = scenes.place_of(placed.x + dx, placed.y + dy)
        assert place == placed.thing.place


def test_things_are_inside_the_image_and_their_boxes_apart():
  source = Scenes(500, max_objects=3)
  for index in range(500):
    placed = source.scene(index)
    boxes = np.array([p.box for p in placed])
    assert boxes.min() >= 0 and boxes.max() <= 1
    for a, b in itertools.pairwise(placed):
      gap = np.hypot(a.x - b.x, a.y - b.y) - a.radius - b.radius
      assert gap > 2 / 32


def test_every_word_is_common_and_sizes_fill_their_range():
  placed = things(Scenes(4000))
  for words, name in (
    (COLOURS, 'colour'),
    (SHAPES, 'shape'),
    (PLACES, 'place'),
  ):
    counts = [
      sum(getattr(p.thing, name) == word for p in placed) for word in words
    ]
    assert min(counts) > 0.8 * len(placed) / len(words)
  diameters = np.array([2 * p.radius for p in placed])
  assert diameters.min() < 0.43 and diameters.max() > 0.53


def test_held_out_triples_are_in_the_held_out_split_and_no_other():
  for split in scenes.SPLITS:
    held_out = [
      scenes.is_held_out(placed.thing)
      for placed in things(Scenes(400, split=split, max_objects=3))
    ]
    assert all(held_out) if split == 'held_out' else not any(held_out)


def test_held_out_captions_cover_every_word_and_no_trained_triple():
  captions = scenes.held_out_captions()
  assert len(set(captions)) == 200
  named = [thing for text in captions for thing in parse_caption(text)]
  assert all(scenes.is_held_out(thing) for thing in named)
  assert {t.colour for t in named} == set(COLOURS)
  assert {t.shape for t in named} == set(SHAPES)
  assert {t.place for t in named} == set(PLACES)


def test_colours_stand_out_from_their_ground():
  for index in range(50):
    example = Scenes(50)[index]
    chroma = np.ptp(example['image'].astype(int), axis=-1)
    inside = example['segmentation'] > 0
    # A pixel of edge belongs to both.
    assert np.median(chroma[inside]) > 90
    assert np.median(chroma[~inside]) < 50


@pytest.mark.parametrize(
  'arguments, said',
  [
    ({'split': 'dev'}, 'train, validation, test, held_out'),
    ({'size': 8}, 'size=8'),
    ({'max_objects': 4}, 'max_objects=4'),
    ({'num_examples': -1}, 'num_examples=-1'),
  ],
)
def test_mistakes_are_named(arguments, said):
  with pytest.raises(UserError, match=said):
    Scenes(**arguments)


def test_an_index_outside_is_an_index_error():
  with pytest.raises(IndexError):
    Scenes(3)[3]
  assert len(list(Scenes(3))) == 3


def test_drawing_touches_no_jax_backend():
  draw = 'from ldm_jax.data.scenes import Scenes; Scenes()[0]'
  touch = 'import jax; jax.devices()'
  # Any use of a backend fails where its platform does not exist.
  environment = os.environ | {'JAX_PLATFORMS': 'nowhere'}
  run = lambda program: subprocess.run(
    [sys.executable, '-c', program],
    env=environment,
    capture_output=True,
    check=False,
  )
  assert run(draw).returncode == 0
  assert run(touch).returncode != 0
