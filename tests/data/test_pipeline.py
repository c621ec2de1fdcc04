"""The stream is a function of (seed, example number), whoever reads it."""

import dataclasses
import json
import multiprocessing
import os
import threading

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import images, pipeline, sources, stream
from ldm_jax.data.pipeline import DataSpec
from ldm_jax.types import UserError

SPEC = DataSpec('folder', 8, crop='random', flip=True)


class Numbers:
  """Images of 8 x 12 pixels whose left column says their index."""

  def __init__(self, length=23, bad=(), **labels):
    self.length, self.bad, self.more = length, set(bad), labels

  def __len__(self):
    return self.length

  def __repr__(self):
    return 'numbers'

  def name(self, index):
    return f'number{index}.png'

  def __getitem__(self, index):
    if index in self.bad:
      raise images.BadImage('damaged on purpose')
    image = np.random.default_rng(index).integers(0, 256, (8, 12, 3), np.uint8)
    return {'image': image, 'label': index, 'text': f'number {index}'}


def prepare(example, rng):
  return {**example, 'noise': rng.normal(size=3)}


def batches(count, source=None, spec=SPEC, function=prepare, **options):
  """The first batches of a stream, as lists of examples' bytes per key."""
  options = {'batch_size': 4, 'seed': 5, **options}
  source = Numbers() if source is None else source
  data = pipeline.train_stream(source, function, spec, **options)
  try:
    return [next(data) for _ in range(count)]
  finally:
    data.close()


def joined(several):
  return {
    key: np.concatenate([batch[key] for batch in several]) for key in several[0]
  }


def assert_same(a, b):
  assert list(a) == list(b)
  for key in a:
    assert a[key].dtype == b[key].dtype
    np.testing.assert_array_equal(a[key], b[key], err_msg=key)


# Sixty examples cross two borders between epochs of 23.
REFERENCE = joined(batches(15))


def test_what_a_batch_holds():
  shapes = {key: (v.shape, v.dtype.name) for key, v in batches(1)[0].items()}
  assert shapes == {
    'example_id': ((4,), 'int64'),
    'image': ((4, 8, 8, 3), 'float32'),
    'label': ((4,), 'int32'),
    'noise': ((4, 3), 'float32'),
  }
  assert REFERENCE['image'].min() >= -1 and REFERENCE['image'].max() <= 1


def test_every_epoch_has_every_image_once_in_another_order():
  ids = REFERENCE['example_id']
  assert sorted(ids[:23]) == sorted(ids[23:46]) == list(range(23))
  assert ids[:23].tolist() != ids[23:46].tolist()
  np.testing.assert_array_equal(ids, REFERENCE['label'])


@pytest.mark.parametrize('batch_size', [1, 3, 20])
def test_batch_size_moves_nothing(batch_size):
  assert_same(
    joined(batches(60 // batch_size, batch_size=batch_size)), REFERENCE
  )


def test_shares_of_the_shorter_side_are_the_examples_own():
  spec = dataclasses.replace(SPEC, min_crop=0.25)
  reference = joined(batches(15, spec=spec))
  assert_same(joined(batches(20, spec=spec, batch_size=3)), reference)
  rest = joined(batches(10, spec=spec, start=20))
  assert_same(rest, {key: value[20:] for key, value in reference.items()})


@pytest.mark.parametrize('start', [1, 22, 23, 30])
def test_starting_at_k_is_skipping_k(start):
  count = (60 - start) // 2
  data = joined(batches(count, batch_size=2, start=start))
  assert_same(
    data, {k: v[start : start + 2 * count] for k, v in REFERENCE.items()}
  )


@pytest.mark.parametrize('process_count', [2, 4])
def test_the_slices_of_all_processes_are_the_batch(process_count):
  parts = [
    batches(15, process_index=i, process_count=process_count)
    for i in range(process_count)
  ]
  assert len(parts[0][0]['label']) == 4 // process_count
  assert_same(joined([b for row in zip(*parts) for b in row]), REFERENCE)


def test_worker_processes_give_the_same_bytes_and_end_when_closed():
  spec = dataclasses.replace(SPEC, max_bad=0.2)
  options = dict(batch_size=4, seed=5, keep_text=True)
  bad = [3, 17]
  reference = joined(batches(15, Numbers(bad=bad), spec, **options))
  many = dataclasses.replace(spec, num_workers=2)
  data = pipeline.train_stream(Numbers(bad=bad), prepare, many, **options)
  assert_same(joined([next(data) for _ in range(15)]), reference)
  assert data.num_bad > 2
  assert len(multiprocessing.active_children()) == 2
  data.close()
  data.close()
  assert not multiprocessing.active_children()
  assert 'ldm-data' not in {thread.name for thread in threading.enumerate()}
  with pytest.raises(stream.DataError, match='closed'):
    next(data)


def test_threads_give_the_same_bytes(monkeypatch):
  monkeypatch.setattr(pipeline, '_is_stored', lambda source: False)
  assert_same(joined(batches(15)), REFERENCE)


def test_the_next_example_resumes_the_stream():
  data = pipeline.train_stream(Numbers(), prepare, SPEC, batch_size=4, seed=5)
  first = [next(data) for _ in range(3)]
  assert data.next_example == 12
  data.close()
  rest = batches(6, batch_size=8, start=data.next_example)
  assert_same(joined(first + rest), REFERENCE)


def test_another_seed_is_another_stream():
  other = joined(batches(15, seed=6))
  assert (other['example_id'] != REFERENCE['example_id']).any()
  assert not set(other['noise'].ravel()) & set(REFERENCE['noise'].ravel())


def test_crops_and_flips_differ_between_epochs_and_can_be_off():
  flips = lambda spec: {
    batch['image'].tobytes()
    for batch in batches(60, Numbers(1), spec, batch_size=1)
  }
  assert len(flips(SPEC)) > 5
  still = dataclasses.replace(SPEC, crop='center', flip=False)
  assert len(flips(still)) == 1


@pytest.mark.parametrize(
  'change',
  [
    {'crop': 'center', 'flip': False},
    {'resize': 10, 'upscale': True},
    {'min_crop': 0.5},
  ],
)
def test_options_do_not_change_what_prepare_draws(change):
  found = joined(batches(15, spec=dataclasses.replace(SPEC, **change)))
  np.testing.assert_array_equal(found['noise'], REFERENCE['noise'])
  assert (found['image'] != REFERENCE['image']).any()


def test_text_stays_when_asked():
  batch = batches(1, keep_text=True)[0]
  assert batch['text'].tolist() == [f'number {i}' for i in batch['label']]


# Bad images.


def test_a_bad_image_is_replaced_and_no_position_moves(tmp_path):
  spec = dataclasses.replace(SPEC, max_bad=0.2)
  source = Numbers(bad=[3, 17])
  data = pipeline.train_stream(
    source, prepare, spec, batch_size=4, seed=5, quarantine_dir=str(tmp_path)
  )
  ids = np.concatenate([next(data)['example_id'] for _ in range(15)])
  data.close()
  was_bad = np.isin(REFERENCE['example_id'], [3, 17])
  np.testing.assert_array_equal(
    ids[~was_bad], REFERENCE['example_id'][~was_bad]
  )
  assert not np.isin(ids, [3, 17]).any()
  assert data.num_bad == was_bad.sum()
  lines = [json.loads(x) for x in open(tmp_path / 'quarantine.jsonl')]
  assert sorted(line['example_id'] for line in lines) == [3, 17]
  assert {line['reason'] for line in lines} == {'damaged on purpose'}
  assert sorted(line['path'] for line in lines)[0] == 'number17.png'


def test_replacements_are_the_same_for_any_batch_size():
  spec = dataclasses.replace(SPEC, max_bad=0.2)
  reference = joined(batches(15, Numbers(bad=[3, 17]), spec))
  assert_same(
    joined(batches(6, Numbers(bad=[3, 17]), spec, batch_size=10)), reference
  )


def test_too_many_bad_images_of_a_small_set_end_a_run_before_it_begins():
  with pytest.raises(UserError, match=r'1 of 23.*number7.png: damaged'):
    batches(1, Numbers(bad=[7]))


def test_too_many_bad_images_of_a_large_set_end_a_run_soon():
  hidden = set(range(4000)) - set(np.linspace(0, 3999, 100, dtype=int).tolist())
  source = Numbers(4000, bad=[i for i in hidden if i % 2])
  with pytest.raises(
    UserError, match='data.max_bad.*number[0-9]+.png: damaged'
  ):
    batches(20, source)


def test_an_image_smaller_than_the_crop_is_named_with_both_sizes():
  spec = dataclasses.replace(SPEC, size=10)
  with pytest.raises(UserError, match='number0.png: 12x8 .*data.size=10'):
    batches(1, spec=spec)
  larger = dataclasses.replace(spec, upscale=True)
  assert batches(1, spec=larger)[0]['image'].shape == (4, 10, 10, 3)


# Clear ends.


def test_an_empty_source_is_refused():
  with pytest.raises(UserError, match='numbers has no images'):
    batches(1, Numbers(0))


def test_a_label_that_the_task_needs_is_asked_for_at_once():
  def needy(example, rng):
    return example

  needy.needs = ('boxes',)
  with pytest.raises(UserError, match="needs 'boxes'.*image, label, text"):
    batches(1, function=needy)


def test_a_batch_that_processes_cannot_share_is_refused():
  with pytest.raises(UserError, match='batch_size=4.*multiple of 3'):
    batches(1, process_count=3)


def late_failure(example, rng):
  if example['label'] == REFERENCE['label'][9]:
    raise ZeroDivisionError('of the prepare function')
  return example


@pytest.mark.parametrize('num_workers', [0, 1])
def test_an_exception_while_reading_reaches_the_loop(num_workers, monkeypatch):
  monkeypatch.setattr(pipeline, 'check_source', lambda *_: None)
  spec = dataclasses.replace(SPEC, num_workers=num_workers)
  data = pipeline.train_stream(
    Numbers(), late_failure, spec, batch_size=4, seed=5
  )
  next(data), next(data)
  for _ in range(2):  # And again, however often it is asked.
    with pytest.raises(pipeline.DataError, match='example 8.*ZeroDivision'):
      next(data)
  assert data.next_example == 8


def fatal(example, rng):
  if example['label'] == REFERENCE['label'][9]:
    os._exit(3)
  return example


def test_a_worker_that_dies_is_reported(monkeypatch):
  monkeypatch.setattr(pipeline, 'check_source', lambda *_: None)
  spec = dataclasses.replace(SPEC, num_workers=1)
  with pytest.raises(pipeline.DataError, match='exit code 3'):
    batches(5, spec=spec, function=fatal)


# Evaluation.


@pytest.mark.parametrize('process_count', [1, 2])
def test_evaluation_sees_each_once_in_order(process_count):
  parts = [
    list(
      pipeline.eval_batches(
        Numbers(), prepare, SPEC, batch_size=8,
        process_index=i, process_count=process_count,
      )
    )
    for i in range(process_count)
  ]  # fmt: skip
  assert {len(part) for part in parts} == {3}
  data = joined([b for row in zip(*parts) for b in row])
  assert data['example_id'].tolist() == [*range(23), -1]
  centre = images.crop(Numbers()[4], 8)['image']
  np.testing.assert_array_equal(images.to_uint8(data['image'][4]), centre)


@pytest.mark.parametrize('change', [{'resize': 16}, {'min_crop': 0.5}])
def test_evaluation_resizes_and_sees_all_that_a_crop_can_have(change):
  spec = dataclasses.replace(SPEC, upscale=True, **change)
  batch = next(pipeline.eval_batches(Numbers(), prepare, spec, batch_size=8))
  resize = change.get('resize', 0)
  centre = images.crop(Numbers()[4], 8, resize=resize)['image']
  np.testing.assert_array_equal(images.to_uint8(batch['image'][4]), centre)


def test_evaluation_stops_at_the_limit():
  several = list(
    pipeline.eval_batches(Numbers(), prepare, SPEC, batch_size=4, limit=6)
  )
  assert joined(several)['example_id'].tolist() == [0, 1, 2, 3, 4, 5, -1, -1]


def test_a_truncated_file_is_named_before_training(tmp_path):
  image = Image.fromarray(Numbers()[0]['image'])
  image.save(tmp_path / 'a.png')
  content = (tmp_path / 'a.png').read_bytes()
  (tmp_path / 'b.png').write_bytes(content[:-30])
  spec = dataclasses.replace(SPEC, path=str(tmp_path))
  with pytest.raises(UserError, match=r'1 of 2 images.*b\.png: truncated'):
    batches(1, sources.open_source(spec, 'train'), spec)
