"""Tests for ldm_jax.training.checkpoint."""

import errno
import functools
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from ldm_jax.training import checkpoint, manifest, optim, parallel
from ldm_jax.types import UserError

WIDTH = 256  # WIDTH**2 elements are just enough to be sharded.
POINTS = (
  'before_arrays',
  'while_writing',
  'arrays_written',
  'before_commit',
  'committed',
  'renamed',
  'before_retention',
  'while_removing',
)


def make_items(seed=0):
  """Parameters and an optimizer state, as a training run has them."""
  tx = optim.make(optim.OptimSpec(1e-3, clip_norm=1.0), 10, 8)
  kernel = jax.random.normal(jax.random.key(seed), (WIDTH, WIDTH))
  params = {'dense': {'kernel': kernel, 'bias': jnp.arange(4.0)}}
  return {
    'model': params,
    'train': {'opt': tx.init(params), 'step': jnp.int32(seed)},
  }


def small_items(seed=0):
  return {
    'model': {'w': jnp.arange(8.0) + seed, 'half': jnp.ones(3, jnp.bfloat16)},
    'train': {'step': jnp.int32(seed)},
  }


def abstract(items, devices=None):
  if devices is None:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), items)
  mesh = parallel.make_mesh(-1, min(devices, 4), jax.devices()[:devices])
  return parallel.with_shardings(items, parallel.state_shardings(mesh, items))


def assert_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)

  def check(a, b):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

  jax.tree.map(check, found, expected)


def save(workdir, *steps, keep=3):
  checkpoints = checkpoint.Checkpoints(workdir, keep)
  for step in steps:
    checkpoints.save(step, small_items(step), {'step': step})
  checkpoints.close()


def names(workdir):
  return sorted(p.name for p in (workdir / 'checkpoints').iterdir())


# Saving and restoring.


def test_what_is_restored_is_what_was_saved(tmp_path):
  items = {
    **make_items(),
    'odd': {
      'bool': jnp.array([True, False]),
      'int8': jnp.arange(3, dtype=jnp.int8),
      'number': 7,
      'numpy': np.float32(2.5),
      'none': None,
      'no rows': jnp.zeros((0, 3)),
      'nested': ({'x': jnp.float16(1)}, [jnp.uint32(2**32 - 1)]),
    },
    'nothing': {},
  }
  items['odd'] = jax.tree.map(jnp.asarray, items['odd'])
  checkpoints = checkpoint.Checkpoints(tmp_path)
  assert checkpoints.save(12, items, {'scale_factor': 0.1, 'next': 2**40})
  step, found, meta = checkpoints.restore_latest(abstract(items))
  assert step == 12 and meta == {'scale_factor': 0.1, 'next': 2**40}
  assert_same(found, items)
  assert not checkpoints.save(12, items, {})  # Already there.
  checkpoints.close()


def test_no_checkpoint_is_none(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path / 'new')
  assert checkpoints.latest() is None
  assert checkpoints.restore_latest(abstract(small_items())) is None
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('there', [1, 4, 8])
def test_any_device_count_restores_any_other(tmp_path, there):
  items = make_items()
  shardings = jax.tree.map(lambda x: x.sharding, abstract(items, there))
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(1, jax.device_put(items, shardings), {})
  for here in (1, 2, 4, 8):
    wanted = abstract(items, here)
    _, found, _ = checkpoints.restore_latest(wanted)
    assert_same(found, items)
    jax.tree.map(
      lambda x, a: x.sharding.is_equivalent_to(a.sharding, x.ndim) or 1 / 0,
      found,
      wanted,
    )
  checkpoints.close()


def test_a_donated_state_is_saved_as_it_was(tmp_path, monkeypatch):
  """Steps that run while the save is being written leave no trace in it."""
  items = make_items()
  expected = jax.tree.map(np.array, items)
  shardings = jax.tree.map(lambda x: x.sharding, abstract(items, 4))

  def placed():  # From host values: a donation must not reach `items`.
    return jax.device_put(expected, shardings)

  @functools.partial(jax.jit, donate_argnums=0)
  def step(state):
    return jax.tree.map(lambda x: x * 2 + 1, state)

  go_on = threading.Event()

  def hold(point):
    if point == 'while_writing':
      assert go_on.wait(30)

  jax.block_until_ready(step(placed()))
  state = placed()
  # Orbax's own writing is under way while the hook holds the rest back.
  monkeypatch.setattr(checkpoint, 'at_point', hold)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(1, state, {})
  for _ in range(5):
    state = step(state)
  jax.block_until_ready(state)
  go_on.set()
  checkpoints.wait()
  _, found, _ = checkpoints.restore_latest(abstract(items))
  assert_same(found, expected)
  checkpoints.close()


def test_items_load_on_one_device_without_knowing_the_model(tmp_path):
  items = make_items()
  shardings = jax.tree.map(lambda x: x.sharding, abstract(items, 8))
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(3, jax.device_put(items, shardings), {'scale_factor': 2.0})
  checkpoints.close()
  found, meta = checkpoint.load_items(tmp_path, ['model'])
  assert meta == {'scale_factor': 2.0} and list(found) == ['model']
  assert_same(found['model'], items['model'])
  for leaf in jax.tree.leaves(found):
    assert leaf.devices() == {jax.devices()[0]}
  everything, _ = checkpoint.load_items(tmp_path, None, step=3)
  mu = everything['train']['opt']['1']['0']['mu']['dense']['kernel']
  assert mu.shape == (WIDTH, WIDTH)


def test_asking_for_what_is_not_there_says_what_is(tmp_path):
  with pytest.raises(UserError, match='no valid checkpoint'):
    checkpoint.load_items(tmp_path, ['model'])
  save(tmp_path, 5)
  with pytest.raises(UserError, match=r"\['model', 'train'\], and not .'ema'"):
    checkpoint.load_items(tmp_path, ['ema'])
  with pytest.raises(UserError, match=r'of step 4; it has \[5\]'):
    checkpoint.load_items(tmp_path, ['model'], step=4)
  with pytest.raises(UserError, match='of step 4'):
    checkpoint.Checkpoints(tmp_path).restore(4, {})


def test_another_model_is_a_mistake_and_not_damage(tmp_path):
  save(tmp_path, 1)
  items = small_items()
  items['model'] = {'w': jnp.zeros(9), 'new': jnp.zeros(1)}
  with pytest.raises(UserError) as error:
    checkpoint.Checkpoints(tmp_path).restore_latest(abstract(items))
  message = str(error.value)
  assert 'model/w is float32[8] in the checkpoint and float32[9]' in message
  assert 'model/new is not there in the checkpoint' in message
  assert names(tmp_path) == ['1']


# Being killed. What is on the disk at a point of the save is what a SIGKILL at
# that point leaves behind.


def copy_while_written(source, to):
  """Copies a tree but for what its writer takes away during the copy.

  A lock may be there again when the copy has ended.
  """
  try:
    shutil.copytree(source, to)
  except shutil.Error as error:
    gone = os.strerror(errno.ENOENT)
    if not all(gone in why for _, _, why in error.args[0]):
      raise


def test_a_kill_at_any_point_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
  run = tmp_path / 'run'
  save(run, 1, 2, keep=2)
  seen = []

  def photograph(point):
    seen.append(point)
    copy_while_written(run, tmp_path / point)

  monkeypatch.setattr(checkpoint, 'at_point', photograph)
  save(run, 3, keep=2)
  monkeypatch.undo()
  assert tuple(seen) == POINTS
  for point in POINTS:
    committed = POINTS.index(point) >= POINTS.index('renamed')
    checkpoints = checkpoint.Checkpoints(tmp_path / point, keep=2)
    step, found, meta = checkpoints.restore_latest(abstract(small_items()))
    assert step == meta['step'] == (3 if committed else 2)
    assert_same(found, small_items(step))
    # And the run goes on: the same step or the next is saved again.
    checkpoints.save(step + 1, small_items(step + 1), {})
    checkpoints.close()
    assert names(tmp_path / point) == [str(step), str(step + 1)]


def test_a_copy_cut_short_is_not_taken_for_a_checkpoint(tmp_path):
  save(tmp_path, 1, 2)
  (tmp_path / 'checkpoints' / '2' / 'COMMITTED').unlink()
  assert checkpoint.Checkpoints(tmp_path).latest() == 1
  assert names(tmp_path) == ['1', '2.damaged']


# Damage.


def damage(path: epath.Path, how: str):
  data = path.read_bytes()
  if how == 'delete':
    path.unlink()
  elif how == 'truncate':
    path.write_bytes(data[: len(data) // 2])
  else:
    middle = len(data) // 2
    path.write_bytes(
      data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]
    )


@pytest.mark.parametrize('how', ['flip', 'truncate', 'delete'])
def test_damage_to_any_file_falls_back_and_is_set_aside(tmp_path, how, caplog):
  save(tmp_path / 'run', 1, 2)
  folder = epath.Path(tmp_path / 'run' / 'checkpoints' / '2')
  files = manifest.list_files(folder)
  assert len(files) > 10
  for i, name in enumerate(files):
    copy = tmp_path / f'copy_{i}'
    shutil.copytree(tmp_path / 'run', copy)
    damage(epath.Path(copy / 'checkpoints' / '2' / name), how)
    caplog.clear()
    assert checkpoint.Checkpoints(copy).latest() == 1, name
    assert names(copy) == ['1', '2.damaged']
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and 'is damaged' in warnings[0].getMessage()


def test_reading_only_passes_over_damage_and_renames_nothing(tmp_path):
  save(tmp_path, 1, 2)
  damage(epath.Path(tmp_path / 'checkpoints' / '2' / 'meta.json'), 'flip')
  _, meta = checkpoint.load_items(tmp_path, ['model'])
  assert meta == {'step': 1}
  assert names(tmp_path) == ['1', '2']
  # A user's mistake where they named it: one line and exit code 2.
  with pytest.raises(UserError, match=r'Checkpoint 2 is damaged.*has \[1, 2\]'):
    checkpoint.load_items(tmp_path, ['model'], step=2)


def test_intact_files_with_other_values_are_damage_too(tmp_path):
  save(tmp_path, 1, 2)
  folder = epath.Path(tmp_path / 'checkpoints' / '2')
  content = manifest.read(folder)
  content['arrays']['model/w']['sums'][1] += 1
  manifest.write(folder, content)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  assert checkpoints.latest() == 2  # Its files are those that were written.
  step, found, _ = checkpoints.restore_latest(abstract(small_items()))
  assert step == 1
  assert_same(found, small_items(1))
  assert names(tmp_path) == ['1', '2.damaged']


def test_a_second_damaged_folder_of_a_step_gets_another_name(tmp_path):
  for _ in range(2):
    save(tmp_path, 1)
    damage(epath.Path(tmp_path / 'checkpoints' / '1' / 'COMMITTED'), 'flip')
    with pytest.raises(checkpoint.Damaged):
      checkpoint.Checkpoints(tmp_path).restore(1, abstract(small_items()))
  assert names(tmp_path) == ['1.damaged', '1.damaged-2']


# Failing to save.


def fail_at(monkeypatch, where):
  def point(name):
    if name == where:
      raise OSError(28, 'No space left on device')

  monkeypatch.setattr(checkpoint, 'at_point', point)


@pytest.mark.parametrize('where', POINTS[1:5])
def test_a_failure_in_the_background_is_raised_at_the_next_call(
  tmp_path, monkeypatch, where
):
  save(tmp_path, 1)
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
  fail_at(monkeypatch, where)
  checkpoints.save(2, small_items(2), {})
  checkpoints._thread.join()
  with pytest.raises(checkpoint.SaveError, match='step 2 failed.*No space'):
    checkpoints.check()
  checkpoints.check()  # Raised once.
  assert names(tmp_path) == ['1']  # And nothing half is left behind.
  monkeypatch.undo()
  checkpoints.save(2, small_items(2), {})
  checkpoints.close()
  assert names(tmp_path) == ['2']


def test_a_failure_before_the_background_is_raised_at_once(
  tmp_path, monkeypatch
):
  save(tmp_path, 1)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  fail_at(monkeypatch, 'before_arrays')
  with pytest.raises(checkpoint.SaveError, match='No space'):
    checkpoints.save(2, small_items(2), {})
  checkpoints.close()
  assert checkpoints.latest() == 1


_DIES = """
import sys, time
from tests.training.test_checkpoint import small_items
from ldm_jax.training import checkpoint
checkpoint.at_point = lambda name: time.sleep(name == 'arrays_written')
with checkpoint.Checkpoints(sys.argv[1]) as checkpoints:
  checkpoints.save(5, small_items(), {})
  raise RuntimeError('drawing failed')
"""


def test_a_program_that_dies_after_a_save_finishes_it(tmp_path):
  """Python stops its threads' pools before it waits for other threads."""
  found = subprocess.run(
    [sys.executable, '-c', _DIES, str(tmp_path)],
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
  )
  assert found.returncode == 1 and 'drawing failed' in found.stderr
  assert checkpoint.Checkpoints(tmp_path).latest() == 5


def test_of_two_failures_the_first_is_told(tmp_path, monkeypatch, caplog):
  fail_at(monkeypatch, 'arrays_written')
  with pytest.raises(KeyError, match='drawing'):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(1, small_items(), {})
      raise KeyError('drawing')
  assert 'Saving step 1 failed' in caplog.text
  with pytest.raises(checkpoint.SaveError):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(1, small_items(), {})


def test_what_is_optional_may_come_and_go(tmp_path):
  of = lambda watch: (
    small_items() | {'train': {'watch': watch, 's': jnp.int32(1)}}
  )
  with_it, without = of({'mean': jnp.float32(3)}), of({})
  optional = ['train/watch/']
  cases = [
    (with_it, without, {}),
    (without, with_it, {'mean': None}),
    (with_it, with_it, {'mean': 3}),
  ]
  for number, (there, here, found) in enumerate(cases):
    folder = tmp_path / str(number)
    with checkpoint.Checkpoints(folder) as checkpoints:
      checkpoints.save(1, there, {})
      checkpoints.wait()
      _, items, _ = checkpoints.restore_latest(abstract(here), optional)
    assert items['train']['watch'] == found
    assert_same(items['model'], there['model'])
    if there is not here:
      with pytest.raises(UserError, match='train/watch/mean'):
        checkpoint.Checkpoints(folder).restore_latest(abstract(here))


def test_check_does_not_wait(tmp_path, monkeypatch):
  go_on = threading.Event()
  monkeypatch.setattr(checkpoint, 'at_point', lambda _: go_on.wait(30))
  checkpoints = checkpoint.Checkpoints(tmp_path)
  go_on.set()
  checkpoints.save(1, small_items(), {})
  go_on.clear()
  checkpoints.check()
  go_on.set()
  checkpoints.close()


def test_a_full_disk_is_noticed_before_writing(tmp_path, monkeypatch):
  save(tmp_path, 1)
  free = 1_000_000
  usage = shutil.disk_usage(tmp_path)._replace(free=free)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
  items = small_items(2)
  needed = 2**20 + sum(leaf.nbytes for leaf in jax.tree.leaves(items))
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
  with pytest.raises(UserError) as error:
    checkpoints.save(2, items, {})
  assert f'{needed:,} bytes and {free:,} are available' in str(error.value)
  assert names(tmp_path) == ['1'] and checkpoints.latest() == 1


# Keeping.


def test_the_newest_are_kept_and_every_nth_for_good(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=2, keep_every=4)
  for step in range(1, 8):
    checkpoints.save(step, {'x': {'v': jnp.int32(step)}}, {})
  checkpoints.close()
  assert checkpoints.steps() == [4, 6, 7]


def test_keeping_none_is_refused(tmp_path):
  with pytest.raises(UserError, match='keep_checkpoints=0'):
    checkpoint.Checkpoints(tmp_path, keep=0)


def test_nothing_is_removed_before_the_new_one_is_there(tmp_path, monkeypatch):
  folder = tmp_path / 'checkpoints'
  seen = {}

  def look(point):
    seen[point] = [s for s in names(tmp_path) if s.isdigit()]

  save(tmp_path, 1, keep=1)
  monkeypatch.setattr(checkpoint, 'at_point', look)
  save(tmp_path, 2, keep=1)
  assert all(seen[point] == ['1'] for point in POINTS[:5])
  assert seen['renamed'] == ['1', '2']
  assert seen['while_removing'] == ['2']
  assert json.loads((folder / '2' / 'meta.json').read_text()) == {'step': 2}
