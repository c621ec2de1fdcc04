"""Rows that one process can show: it compiles once and trains many times."""

import contextlib
import ctypes
import functools
import gc
import os
import pathlib
import random
import resource
import shutil
import signal
from unittest import mock

import jax
import numpy as np

import train
from ldm_jax.training import checkpoint, guard, parallel
from ldm_jax.training.watchdog import Watchdog
from ldm_jax.types import UserError
from tests.chaos import small

Folder = pathlib.Path


@functools.cache
def trainer_of(stage: str) -> small.Trainer:
  return small.Trainer(small.STAGES[stage]())


@functools.cache
def whole_run(folder: Folder, stage: str) -> Folder:
  """The workdir of an uninterrupted run that saved each step."""
  workdir = folder / f'whole_{stage}'
  assert trainer_of(stage)(small.STAGES[stage](save_every=1), workdir) == 0
  return workdir


def resume(folder: Folder, rng: random.Random):
  """Resumed after k of 40 steps, k = 1..39, both stages: bitwise the same."""
  cases = [(s, k) for k in range(1, small.STEPS) for s in small.STAGES]
  rng.shuffle(cases)
  for stage, step in cases:
    trainer, expected = trainer_of(stage), whole_run(folder, stage)
    workdir = folder / f'{stage}_{step}'
    config = small.STAGES[stage]()
    small.resumable(workdir, expected, config, step)
    assert trainer(config, workdir) == 0
    small.assert_same_run(workdir, expected)
    shutil.rmtree(workdir)
    yield stage


def chained(folder: Folder, rng: random.Random):
  """Stopped and resumed again and again, at random steps."""
  for number in range(1000):
    stage = list(small.STAGES)[number % 2]
    trainer, expected = trainer_of(stage), whole_run(folder, stage)
    workdir = folder / f'chain_{number}'
    stops = sorted(rng.sample(range(1, small.STEPS), 5))
    for stop in stops:
      with asked_to_stop('a step', stop):
        code = trainer(small.STAGES[stage](), workdir)
      assert code == train.EXIT_CODE
    assert trainer(small.STAGES[stage](), workdir) == 0
    small.assert_same_run(workdir, expected)
    shutil.rmtree(workdir)
    yield f'{stage}, {len(stops)} stops'


@contextlib.contextmanager
def asked_to_stop(phase: str, step: int, times: int = 1):
  """SIGTERM when the loop is about to do `phase` at `step`."""
  at, left = Watchdog.at, [times]

  def spoken(self, said, here):
    at(self, said, here)
    if (said, here) == (phase, step) and left[0]:
      for _ in range(left[0]):
        os.kill(os.getpid(), signal.SIGTERM)
      left[0] = 0

  with mock.patch.object(Watchdog, 'at', spoken):
    yield


def preempted(folder: Folder, rng: random.Random):
  """SIGTERM at every phase: at most a step more, saved, 75, the same end.

  A run is stopped some times before it may end.
  """
  config = small.diffusion(show_every=10, save_every=10)
  trainer = small.Trainer(config)
  expected, workdir = folder / 'whole_preempted', folder / 'preempted'
  assert trainer(config, expected) == 0
  draws = (
    ('opening the run', lambda now: 0),
    ('a step', lambda now: now + 1),
    ('a step', lambda now: now + rng.randint(2, 8)),
    ('waiting for data', lambda now: now + rng.randint(1, 7)),
    ('drawing', lambda now: now - now % 10 + 10),
    ('saving', lambda now: now - now % 10 + 10),
  )
  newest = 0
  for number in range(1000):
    phase, draw = draws[number % len(draws)]
    step, times = draw(newest), 1 + number // len(draws) % 2
    with asked_to_stop(phase, step, times):
      assert trainer(config, workdir) == train.EXIT_CODE
    steps = checkpoint.Checkpoints(workdir).steps()
    if step:  # At most the step under way was added.
      assert step <= steps[-1] <= step + 1, (phase, step, steps)
    newest = steps[-1] if steps else 0
    yield f'{phase}, {times} signals'
    if newest >= 30:  # What is asked of the last step, 40, comes too late.
      assert trainer(config, workdir) == 0
      small.assert_same_run(workdir, expected)
      shutil.rmtree(workdir)
      newest = 0


def damaged(folder: Folder, rng: random.Random):
  """A file of the newest checkpoint flipped, cut, emptied, grown or gone."""
  whole, steps = folder / 'whole', (1, 2, 3)
  config = small.first_stage(num_steps=3, save_every=1)
  assert trainer_of('first_stage')(config, whole) == 0
  expected = {step: small.items(whole, step) for step in steps}
  for number in range(1000):
    workdir = folder / f'damaged_{number}'
    for step in steps:
      shutil.copytree(
        whole / 'checkpoints' / str(step), workdir / f'checkpoints/{step}'
      )
    hit = steps[1:] if number % 5 == 4 else steps[2:]
    kinds = [harm(workdir / f'checkpoints/{step}', rng) for step in hit]
    checkpoints = checkpoint.Checkpoints(workdir)
    good = min(hit) - 1
    # Read as a sampler would: nothing is changed on disk. One file is of no
    # use to it, and it does not look at that.
    read = [
      step
      for step in steps
      if step not in hit or 'arrays/commit_success' in kinds[hit.index(step)]
    ]
    small.assert_same_arrays(small.items(workdir)[0], expected[read[-1]][0])
    # ... and as a run does, which sets the damaged ones aside.
    assert checkpoints.latest() == good, kinds
    names = {p.name for p in (workdir / 'checkpoints').iterdir()}
    assert names == {str(s) for s in steps if s <= good} | {
      f'{step}.damaged' for step in hit
    }
    shutil.rmtree(workdir)
    yield ', '.join(sorted(kind.split()[-1] for kind in kinds))


def harm(folder: Folder, rng: random.Random) -> str:
  """Damages one file; returns how."""
  files = sorted(p for p in folder.rglob('*') if p.is_file())
  path = rng.choice(files)
  data = bytearray(path.read_bytes())
  ways = ['deleted', 'grown'] + (['flipped', 'cut', 'emptied'] if data else [])
  way = rng.choice(ways)
  if way == 'deleted':
    path.unlink()
  elif way == 'flipped':
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
  else:
    new = {
      'grown': bytes(data) + b'x',
      'cut': bytes(data[: rng.randrange(len(data))]) if data else b'',
      'emptied': b'',
    }
    path.write_bytes(new[way])
  return f'{path.relative_to(folder)} {way}'


def disk_full(folder: Folder, rng: random.Random):
  """No room before a save, or none left within it: told, and nothing lost."""
  config = small.diffusion(save_every=10)
  trainer = small.Trainer(config)
  expected = folder / 'whole_disk'
  assert trainer(config, expected) == 0
  for number in range(1000):
    workdir = folder / f'disk_{number}'
    with asked_to_stop('a step', 10):
      assert trainer(config, workdir) == train.EXIT_CODE
    if number % 2:
      with mock.patch.object(checkpoint, 'free_bytes', lambda _: 100):
        message = failure(trainer, config, workdir, UserError)
      assert 'it needs' in message and '100 are available' in message
    else:
      with file_limit(rng.randrange(1, 30_000)):
        failure(trainer, config, workdir, (checkpoint.SaveError, OSError))
    assert checkpoint.Checkpoints(workdir).latest() == 10
    assert trainer(config, workdir) == 0
    small.assert_same_arrays(small.items(workdir)[0], small.items(expected)[0])
    shutil.rmtree(workdir)
    yield 'within the save' if number % 2 == 0 else 'before the save'


def failure(trainer, config, workdir, kinds) -> str:
  try:
    trainer(config, workdir)
  except kinds as error:
    return str(error)
  raise AssertionError('the save went well')


@contextlib.contextmanager
def file_limit(size: int):
  """Files cannot grow beyond `size` bytes in this process."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def bad_numbers(folder: Folder, rng: random.Random):
  """Batches of NaN or infinity: skipped bitwise; ten in a row end the run."""
  for number in range(1000):
    stage = list(small.STAGES)[number % 2]
    trainer = trainer_of(stage)
    config = small.STAGES[stage](num_steps=24, save_every=1)
    ends = number % 4 > 1
    first = rng.randrange(2, 12)
    last = first + (9 if ends else rng.randrange(9))
    bad = rng.choice((np.nan, np.inf, -np.inf))
    workdir = folder / f'bad_{number}'
    with poisoned(range(first, last + 1), bad):
      if ends:
        kind = guard.TooManyBadSteps
        assert '10 steps' in failure(trainer, config, workdir, kind)
      else:
        assert trainer(config, workdir) == 0
    checkpoints = checkpoint.Checkpoints(workdir)
    before, _ = small.items(workdir, first - 1)
    for step in range(first, min(last, checkpoints.latest()) + 1):
      small.assert_same_arrays(
        small.items(workdir, step)[0], before, but=('train/step',)
      )
    if not ends:
      after, _ = small.items(workdir, last + 1)
      name = next(k for k in after if k.endswith('conv_in/kernel'))
      assert np.any(after[name] != before[name])
    shutil.rmtree(workdir)
    yield f'{stage}, {bad}, {"ten in a row" if ends else "some steps"}'


@contextlib.contextmanager
def poisoned(steps, value):
  """Images of these steps hold one `value`."""
  kind = small.runs.Run
  to_device, calls = kind.to_device, [0]

  def to_bad_device(self, batch):
    calls[0] += 1
    if calls[0] in steps:
      batch['image'] = batch['image'].copy()
      batch['image'][0, 0, 0, 0] = value
    return to_device(self, batch)

  with mock.patch.object(kind, 'to_device', to_bad_device):
    yield


MESHES = ((1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (8, 1), (4, 2), (2, 4))


def elastic(folder: Folder, rng: random.Random):
  """Saved on one mesh, gone on with on another, 20 steps."""
  whole, trainers = {}, {}
  config = lambda mesh, **changes: small.diffusion(
    batch_size=8, mesh={'data': mesh[0], 'fsdp': mesh[1]}, **changes
  )
  pairs = [(a, b) for a in MESHES for b in MESHES if a != b]
  rng.shuffle(pairs)
  with mock.patch.object(parallel, 'MIN_SHARDED_ELEMENTS', 16):
    for there, here in pairs:
      for mesh in (there, here):
        if mesh not in whole:
          workdir = whole[mesh] = folder / f'mesh_{mesh[0]}x{mesh[1]}'
          trainers[mesh] = small.Trainer(config(mesh))
          assert trainers[mesh](config(mesh, save_every=20), workdir) == 0
      workdir = folder / 'elastic'
      small.resumable(workdir, whole[there], config(here), 20)
      same_tree(trainers[here].run, workdir, small.items(whole[there], 20)[0])
      assert trainers[here](config(here), workdir) == 0
      small.assert_close_run(workdir, whole[there])
      shutil.rmtree(workdir)
      yield f'{there} to {here}'


def same_tree(run, workdir, expected):
  """What a mesh restores is what another saved."""
  checkpoints = checkpoint.Checkpoints(workdir)
  state, held, _ = small.runs.resume(run, checkpoints)
  leaves = small.named_leaves(jax.device_get(run.to_items(state, held)))
  small.assert_same_arrays(
    {k: np.asarray(v) for k, v in leaves.items()}, expected
  )
  checkpoints.close()


def memory(folder: Folder, rng: random.Random):
  """Host memory stays flat, a thousand steps at a time.

  From the second thousand on, the first to restore a checkpoint. What is freed
  goes back to the system first: how much of that glibc keeps is up to it.
  """
  del rng
  config = lambda steps: small.diffusion(
    num_steps=steps,
    log_every=50,
    save_every=500,
    keep_checkpoints=2,
    optim={'schedule': 'constant'},
  )
  trainer, before = small.Trainer(config(1000)), None
  for thousand in range(1, 1000):
    assert trainer(config(1000 * thousand), folder / 'run') == 0
    now = bytes_in_use()
    if thousand == 2:
      before = now
    more = now - before if before else 0
    assert more < 16 * 2**20, f'{more:,} bytes more'
    yield f'step {1000 * thousand}, {more:,} bytes more'


def bytes_in_use() -> int:
  gc.collect()
  if trim := getattr(ctypes.CDLL(None), 'malloc_trim', None):  # glibc's.
    trim(0)
  pages = int(Folder('/proc/self/statm').read_text().split()[1])
  return pages * resource.getpagesize()
