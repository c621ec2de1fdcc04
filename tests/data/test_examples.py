"""What happens to one example, and how examples become a batch."""

import dataclasses

import numpy as np
import pytest

from ldm_jax.data import examples, images, quarantine
from ldm_jax.data.spec import DataSpec
from ldm_jax.types import UserError

SPEC = DataSpec('folder', 8)


class Source(list):
  """A list of images, or of reasons why there is none."""

  def __getitem__(self, index):
    item = super().__getitem__(index)
    if isinstance(item, str):
      raise images.BadImage(item)
    return {'image': item}

  def name(self, index):
    return f'file{index}'


def grey(value, height=8, width=8):
  return np.full((height, width, 3), value, np.uint8)


def test_a_good_image_is_read_as_itself():
  example = examples.Read(Source([grey(1), grey(2)]), SPEC)(1)
  assert example['image'][0, 0, 0] == 2 and example['example_id'] == 1
  assert example[quarantine.KEY] == []


def test_a_bad_image_is_replaced_by_a_good_one_always_the_same():
  source = Source([grey(i) for i in range(50)])
  source[7] = 'damaged'
  read = examples.Read(source, SPEC)
  found = [read(7) for _ in range(3)]
  assert len({int(example['example_id']) for example in found}) == 1
  replaced = found[0]
  assert replaced['image'][0, 0, 0] == replaced['example_id'] != 7
  assert replaced[quarantine.KEY] == [(7, 'file7', 'damaged')]


def test_bad_images_have_different_replacements():
  source = Source([grey(i) for i in range(200)])
  for i in range(20):
    source[i] = 'damaged'
  read = examples.Read(source, SPEC)
  assert len({int(read(i)['example_id']) for i in range(20)}) > 12


def test_a_source_may_replace_its_bad_images_itself(caplog):
  source = Source([grey(i) for i in range(50)])
  source[7] = 'damaged'
  source.classes = ['a']
  spec = dataclasses.replace(SPEC, max_bad=0.1)
  whole = examples.Replacing(source, spec)
  expected = examples.Read(source, spec)(7)['image']
  for _ in range(2):
    np.testing.assert_array_equal(whole[7]['image'], expected)
  assert len(whole) == 50 and whole.name(7) == 'file7'
  assert whole.classes == ['a'] and not hasattr(whole, 'max_objects')
  assert [r.getMessage() for r in caplog.records] == [
    'Bad image replaced: file7: damaged'
  ]
  for i in range(10, 16):
    source[i] = 'damaged'
  with pytest.raises(UserError, match='over the 10.0% of data.max_bad'):
    [whole[i] for i in range(50)]


def test_a_source_without_a_good_image_ends_it():
  with pytest.raises(UserError, match='in a row.*file.*: damaged'):
    examples.Read(Source(['damaged'] * 30), SPEC)(3)


def test_an_image_smaller_than_the_crop_is_bad_unless_it_may_grow():
  source = Source([grey(0, 7, 30), grey(1, 8, 9)])
  read = examples.Read(source, SPEC)
  assert read(0)['example_id'] == 1
  with pytest.raises(images.BadImage, match='30x7 .*data.size=8'):
    read.one(0)
  larger = dataclasses.replace(SPEC, upscale=True)
  assert examples.Read(source, larger)(0)['example_id'] == 0
  part = dataclasses.replace(SPEC, resize=9)
  with pytest.raises(images.BadImage, match='9x8 .*data.resize=9'):
    examples.Read(source, part).one(1)
  stored = dataclasses.replace(SPEC, resize=-1)
  assert examples.Read(source, stored)(0)['example_id'] == 1


def crops_of(spec, count=200):
  """The first column of each crop of an image whose pixels say theirs."""
  image = np.broadcast_to(np.arange(24, dtype=np.uint8)[:, None], (8, 24, 3))
  transform = examples.Transform(lambda example, rng: example, spec)
  return [
    images.to_uint8(
      transform({'image': image}, np.random.default_rng(seed))['image']
    )[0, :, 0].tolist()
    for seed in range(count)
  ]


def test_random_crops_reach_every_place_and_flips_are_half():
  spec = dataclasses.replace(SPEC, crop='random', flip=True)
  rows = crops_of(spec)
  flipped = [row[0] > row[-1] for row in rows]
  assert 70 < sum(flipped) < 130
  assert {min(row) for row in rows} == set(range(16))


def test_random_crops_show_every_share_of_the_shorter_side():
  spec = dataclasses.replace(SPEC, crop='random', flip=True, min_crop=0.25)
  shares = {True: [], False: []}
  prepare = lambda example, rng: example
  transform = examples.Transform(prepare, spec)
  for seed in range(400):
    example = {
      'image': grey(0, 100, 100),
      'boxes': np.float32([[0, 0, 1, 0.5], [0, 0.5, 1, 1]]),
      'box_labels': np.int32([0, 1]),
      'mask': np.broadcast_to(np.arange(100), (100, 100)),
    }
    made = transform(example, np.random.default_rng(seed))
    x0, y0, x1, y1 = made['crop']
    assert x1 - x0 == pytest.approx(y1 - y0)
    flipped = made['mask'][0, 0] > made['mask'][0, -1]
    shares[bool(flipped)].append(round(100 * (x1 - x0)))
  for found in shares.values():  # Mirrored or not.
    assert len(found) > 150
    assert 25 <= min(found) < 28 and 96 < max(found) <= 100
    assert np.mean(found) == pytest.approx(62.5, abs=5)


def test_centre_crops_do_not_move():
  assert {tuple(row) for row in crops_of(SPEC)} == {tuple(range(8, 16))}


def test_prepare_sees_floats_and_cannot_lose_the_id():
  def prepare(example, rng):
    assert set(example) == {'image'}
    assert example['image'].dtype == np.float32
    return {'mean': example['image'].mean()}

  read = examples.Read(Source([grey(255)]), SPEC)
  result = examples.Transform(prepare, SPEC)(read(0), np.random.default_rng(0))
  assert result['mean'] == 1 and result['example_id'] == 0


# Batches.


def collate(rows, source=(), **options):
  return examples.Collate(source, **{'keep_text': False, **options})(rows)


def test_numbers_shrink_to_32_bits_but_ids_do_not():
  row = {'a': 1, 'b': 1.5, 'c': np.zeros(2), 'example_id': np.int64(2**40)}
  batch = collate([row, row])
  kinds = {key: value.dtype.name for key, value in batch.items()}
  assert kinds == {
    'a': 'int32',
    'b': 'float32',
    'c': 'float32',
    'example_id': 'int64',
  }
  assert batch['example_id'][0] == 2**40


def test_text_is_dropped_unless_it_is_kept():
  rows = [{'text': 'one'}, {'text': 'another'}]
  assert collate(rows) == {}
  kept = collate(rows, keep_text=True)['text']
  assert kept.dtype == object and kept.tolist() == ['one', 'another']


def test_several_captions_stay_together():
  rows = [{'text': ['a', 'b']}, {'text': ['c', 'd']}]
  assert collate(rows) == {}
  assert collate(rows, keep_text=True)['text'].tolist() == [
    ['a', 'b'],
    ['c', 'd'],
  ]


def boxes(count):
  return {
    'boxes': np.full((count, 4), 0.5, np.float32),
    'box_labels': np.full(count, 3, np.int32),
  }


def test_boxes_are_padded_to_what_the_source_can_hold():
  class Three:
    max_objects = 3

  batch = collate([boxes(1), boxes(0), boxes(5)], Three())
  assert batch['boxes'].shape == (3, 3, 4)
  assert batch['box_labels'].tolist() == [[3, -1, -1], [-1] * 3, [3, 3, 3]]
  np.testing.assert_array_equal(
    batch['boxes'].sum((1, 2)), np.float32([2, 0, 6])
  )
  assert collate([boxes(1)])['boxes'].shape == (1, examples.MAX_BOXES, 4)


def test_shapes_that_differ_are_named():
  with pytest.raises(UserError, match="'odd' has several shapes"):
    collate([{'odd': np.zeros(2)}, {'odd': np.zeros(3)}])


def test_labels_that_only_some_have_are_named():
  with pytest.raises(UserError, match="have 'label' and others do not"):
    collate([{'label': 1}, {}])
