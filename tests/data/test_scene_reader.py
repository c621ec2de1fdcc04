"""Tests for ldm_jax.data.scene_reader."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from ldm_jax.data import scene_captions, scene_reader, scenes
from ldm_jax.data.scene_captions import COLOURS, PLACES, SHAPES, Thing
from ldm_jax.data.scenes import Scenes


def read_back(source, spoil=lambda image: image):
  """The shares of a source's examples that obey their own captions."""
  examples = [source[index] for index in range(len(source))]
  return scene_reader.scores(
    [spoil(example['image']) for example in examples],
    [example['text'] for example in examples],
  )


def spoiler(blur, noise, seed=0):
  """Gaussian blur in pixels, then gaussian noise in levels of 255."""
  rng = np.random.default_rng(seed)

  def spoil(image):
    soft = ndimage.gaussian_filter(image.astype(float), (blur, blur, 0))
    grainy = soft + rng.normal(0, noise, image.shape)
    return np.clip(np.rint(grainy), 0, 255).astype(np.uint8)

  return spoil


def test_held_out_scenes_are_read_right():
  result = read_back(Scenes(400, split='test'))
  for aspect in ('colour', 'shape', 'place', 'count'):
    assert result[aspect] >= 0.99, (aspect, result)


def test_scenes_of_three_things_are_read_right():
  assert read_back(Scenes(100, max_objects=3, split='test'))['all'] >= 0.98


def test_larger_scenes_are_read_right():
  source = Scenes(40, size=64, max_objects=3, split='test')
  assert read_back(source)['all'] >= 0.97


@pytest.mark.parametrize('blur, noise', [(0.5, 5), (0.7, 5), (1.0, 0), (0, 10)])
def test_blur_and_noise_do_little_harm(blur, noise):
  source = Scenes(100, split='validation')
  assert read_back(source, spoiler(blur, noise))['all'] >= 0.96


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('degrees', [0, 30, 45, 80])
def test_a_shape_is_itself_at_any_rotation(shape, degrees):
  thing = Thing('blue', shape, 'center')
  radians = np.deg2rad(degrees)
  placed = scenes.Placed(thing, 0.5, 0.5, 0.22, radians, (0.1, 0.2, 0.8))
  image, _ = scenes.render(np.random.default_rng(0), [placed], 32)
  (seen,) = scene_reader.read(image)
  assert seen.thing == thing


@pytest.mark.parametrize('level', [0, 128, 255])
def test_an_empty_image_shows_nothing(level):
  image = np.full((32, 32, 3), level, np.uint8)
  assert scene_reader.read(image) == []
  assert not any(scene_reader.score(image, 'a red ring at the top').values())


def test_a_ground_alone_shows_nothing():
  for seed in range(30):
    image, _ = scenes.render(np.random.default_rng(seed), [], 32)
    assert scene_reader.read(image) == []


def test_a_shapeless_blob_has_a_colour_but_no_shape():
  image = np.full((32, 32, 3), 128, np.uint8)
  image[4:8, 3:29] = image[4:28, 3:6] = (220, 30, 30)  # an L
  (seen,) = scene_reader.read(image)
  assert (seen.colour, seen.shape) == ('red', scene_reader.UNREADABLE)


def test_things_are_found_where_they_are():
  source = Scenes(60, max_objects=3)
  for index in range(60):
    placed = sorted(source.scene(index), key=lambda p: p.x)
    found = scene_reader.read(source[index]['image'])
    assert len(found) == len(placed)
    for a, b in zip(placed, sorted(found, key=lambda s: s.x), strict=True):
      np.testing.assert_allclose((b.x, b.y), (a.x, a.y), atol=0.5 / 32)
      np.testing.assert_allclose(b.box, a.box, atol=1.6 / 32)


def test_segmentation_overlaps_the_truth():
  source = Scenes(60, max_objects=3)
  for index in range(60):
    truth = source[index]['segmentation']
    found = scene_reader.segment(source[index]['image'])
    assert found.dtype == truth.dtype and found.shape == truth.shape
    either = (found > 0) | (truth > 0)
    assert np.mean(found[either] == truth[either]) > 0.85


def test_every_wrong_word_is_noticed():
  source = Scenes(8)
  words = {'colour': COLOURS, 'shape': SHAPES, 'place': PLACES}
  for index in range(8):
    image = source[index]['image']
    thing = source.scene(index)[0].thing
    for aspect, choices in words.items():
      for word in choices:
        said = dataclasses.replace(thing, **{aspect: word})
        result = scene_reader.score(image, [said])
        assert result[aspect] == result['all'] == (said == thing)


def test_a_missing_or_extra_thing_is_noticed():
  source = Scenes(20, max_objects=3, seed=1)
  several = next(i for i in range(20) if len(source.scene(i)) == 2)
  image = source[several]['image']
  first, second = (placed.thing for placed in source.scene(several))
  extra = Thing('green', 'ring', 'center')
  assert scene_reader.score(image, [second, first])['all']
  assert not scene_reader.score(image, [first])['count']
  missing = scene_reader.score(image, [first, second, extra])
  assert not any(missing.values())


def test_scores_are_shares_of_the_images():
  source = Scenes(4)
  images = [source[index]['image'] for index in range(4)]
  texts = [source.caption(index) for index in range(4)]
  images[0] = np.zeros_like(images[0])
  assert scene_reader.scores(images, texts) == dict.fromkeys(
    ('colour', 'shape', 'place', 'count', 'all'), 0.75
  )


def test_a_caption_and_its_things_score_alike():
  source = Scenes(1)
  (thing,) = scene_captions.parse_caption(source.caption(0))
  image = source[0]['image']
  assert scene_reader.score(image, source.caption(0)) == scene_reader.score(
    image, [thing]
  )


@pytest.mark.parametrize(
  'image', [np.zeros((32, 32, 3)), np.zeros((32, 16, 3), np.uint8)]
)
def test_other_images_are_refused(image):
  with pytest.raises(ValueError, match='square uint8 RGB'):
    scene_reader.read(image)
