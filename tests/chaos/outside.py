"""Rows in which processes die: each run is a child of this one."""

import contextlib
import itertools
import multiprocessing
import pathlib
import random
import shutil
import signal
import socket
import time

import numpy as np
from etils import epath

from ldm_jax.training import manifest
from tests.chaos import small

Folder = pathlib.Path

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
LIMIT = 300  # seconds that any child may take


class Child:
  """A training process; children are forked from a server that has jax."""

  def __init__(self, folder, config, workdir, fault=None, rank=None):
    from tests.chaos import child

    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['tests.chaos.child'])
    # Without locks, which a killed child could hold.
    self.count = context.RawValue('i', 0)
    self.doing = context.RawArray('c', 64)
    self.log = folder / f'log_{rank[0] if rank else 0}'
    self.log.unlink(missing_ok=True)
    heard = self.count, self.doing
    self.process = context.Process(
      target=child.main,
      args=(config, workdir, fault or {}, str(self.log), heard, rank),
    )
    self.process.start()

  def end(self, limit: float = LIMIT) -> int:
    """Its exit code; kills it after the limit."""
    self.wait_until(lambda: False, limit)
    if self.process.exitcode is None:
      self.process.kill()
      self.process.join()
      raise AssertionError(f'still there after {limit} s:\n{self.said()}')
    return self.process.exitcode

  def said(self) -> str:
    return self.log.read_text(errors='replace')[-6000:]

  def wait_until(self, reached, limit: float = LIMIT) -> None:
    """Until then, or until it has ended, or for so long.

    Time is counted and not read: all of this may be suspended for a while.
    """
    pause = 0.02
    for _ in range(round(limit / pause)):
      if reached() or self.process.exitcode is not None:
        return
      self.process.join(pause)

  def wait_for_word(self, number: int):
    self.wait_until(lambda: self.count.value >= number)

  def wait_for_first_step(self):
    self.wait_until(lambda: self.doing.value == b'the first step')


def valid_steps(workdir: Folder) -> list[int]:
  """Committed checkpoints, all of which must be valid."""
  folder = epath.Path(workdir) / 'checkpoints'
  if not folder.exists():
    return []
  steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
  for step in steps:
    manifest.verify_files(folder / str(step), manifest.read(folder / str(step)))
  return steps


def killed(folder: Folder, rng: random.Random):
  """SIGKILL, half at named points of a save and half at any moment.

  Of the latter some come while the process starts or restores, one in eight as
  it closes, and the others at a word that the loop says, or a little later.
  """
  config = small.diffusion(num_steps=24, save_every=2, keep_checkpoints=2)
  expected, workdir = folder / 'whole', folder / 'run'
  child = Child(folder, config, expected)
  assert child.end() == 0, child.said()
  number, newest = 0, 0
  while True:
    number += 1
    fault, word, later = {}, 0, 0.0
    if number % 2:
      point = POINTS[number // 2 % len(POINTS)]
      fault = {'kind': 'killed_at', 'point': point, 'nth': rng.randint(1, 3)}
    elif number % 16 == 0:
      fault = {'kind': 'stopped_at', 'phase': 'closing',
               'signal': signal.SIGKILL}  # fmt: skip
    elif number % 16 in (4, 10):
      word, later = 1, rng.uniform(0, 3)
    else:
      word, later = rng.randint(2, 40), rng.uniform(0, 0.1)
    child = Child(folder, config, workdir, fault)
    if not fault:
      child.wait_for_word(word)
      time.sleep(later)
      child.process.kill()
    code = child.end()
    assert code in (0, -signal.SIGKILL), child.said()
    steps = valid_steps(workdir)
    assert not newest or steps and steps[-1] >= newest, (newest, steps)
    newest = steps[-1] if steps else 0
    if code:
      yield fault.get('point') or child.doing.value.decode()
      continue
    small.assert_same_run(workdir, expected)
    shutil.rmtree(workdir)
    newest = 0


@contextlib.contextmanager
def ranks(folder, config, workdir, faults, heartbeat=100):
  """One process of a run for each of the faults."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  count = len(faults)
  children = [
    Child(folder, config, workdir, fault, (rank, count, port, heartbeat))
    for rank, fault in enumerate(faults)
  ]
  try:
    yield children
  finally:
    for child in children:
      child.process.kill()


def together(folder, config, workdir, faults=({}, {})) -> int:
  """The exit code of all processes of a run: 0 or 75."""
  with ranks(folder, config, workdir, faults) as children:
    codes = {child.end() for child in children}
    assert codes in ({0}, {75}), '\n\n'.join(c.said() for c in children)
    return codes.pop()


def preempted_pair(folder: Folder, rng: random.Random):
  """SIGTERM to one of two processes: both save the same step and leave."""
  config = small.diffusion(mesh={'data': -1}, save_every=8, show_every=8)
  expected, workdir = folder / 'whole', folder / 'run'
  assert together(folder, config, expected) == 0
  draws = (
    ('opening the run', lambda now: now),
    ('a step', lambda now: now + 1),  # The first, which is compiled.
    ('a step', lambda now: now + rng.randint(2, 3)),
    ('waiting for data', lambda now: now + rng.randint(1, 3)),
    ('drawing', lambda now: now - now % 8 + 8),
    ('saving', lambda now: now - now % 8 + 8),
  )
  newest = 0
  for number in range(1000):
    phase, draw = draws[number % len(draws)]
    step, times = draw(newest), 1 + number // len(draws) % 2
    fault = {
      'kind': 'stopped_at', 'phase': phase, 'step': step, 'times': times
    }  # fmt: skip
    if phase == 'opening the run':
      fault.pop('step')
    # JAX's service looks for the signal once a second: steps are slowed down,
    # so that few are done in it.
    faults = [fault | {'pace': 0.5}, {'kind': 'nothing', 'pace': 0.5}]
    rng.shuffle(faults)
    assert together(folder, config, workdir, faults) == 75, (phase, step)
    steps = valid_steps(workdir)
    assert step <= (steps[-1] if steps else 0) <= step + 4, (phase, step, steps)
    newest = steps[-1] if steps else 0
    yield f'{phase}, {times} signals'
    if newest > 24:
      assert together(folder, config, workdir) == 0
      small.assert_same_run(workdir, expected)
      shutil.rmtree(workdir)
      newest = 0


# (processes, devices of each, mesh.data, mesh.fsdp)
LAYOUTS = ((1, 1, 1, 1), (2, 1, 2, 1), (2, 2, 1, 4), (1, 4, 2, 2), (4, 1, 4, 1))


def elastic_pods(folder: Folder, rng: random.Random):
  """Saved by some processes, gone on with by others, for 20 steps."""
  common = {'kind': 'nothing', 'shard_from': 16}

  def config(layout, **changes):
    mesh = {'data': layout[2], 'fsdp': layout[3]}
    return small.diffusion(batch_size=8, mesh=mesh, **changes)

  def go(layout, workdir, fault, **changes):
    fault = common | fault | {'devices': layout[1]}
    faults = [fault] * layout[0]
    chosen = config(layout, **changes)
    if layout[0] > 1:
      assert together(folder, chosen, workdir, faults) == 0
    else:
      child = Child(folder, chosen, workdir, fault)
      assert child.end() == 0, child.said()

  pairs = list(itertools.permutations(LAYOUTS, 2))
  rng.shuffle(pairs)
  whole = {}
  for there, here in pairs:
    if there not in whole:
      whole[there] = folder / f'whole_{len(whole)}'
      go(there, whole[there], {}, save_every=20)
      saved = small.items(whole[there], 20)[0]
      np.savez(whole[there] / 'saved.npz', **saved)
    workdir, source = folder / 'elastic', whole[there]
    small.resumable(workdir, source, config(here), 20)
    fault = {'kind': 'restores', 'file': str(source / 'saved.npz')}
    go(here, workdir, fault)
    small.assert_close_run(workdir, source)
    shutil.rmtree(workdir)
    yield f'{there} to {here}'


def hangs(folder: Folder, rng: random.Random):
  """Stalls, hangs and deaths end with a word on what and where, in time."""
  ways = (data_ends, silence_ends, step_ends, worker_ends, rank_hangs,
          rank_dies)  # fmt: skip
  # Their programs, so that none has to be compiled while the watchdog looks.
  together(folder, guarded(0.0, num_steps=2), folder / 'pair')
  Child(folder, guarded(0.0, num_steps=2), folder / 'one').end()
  for number in range(1000):
    workdir = folder / f'run_{number}'
    way = ways[number % len(ways)]
    way(folder, workdir, rng.randrange(2, 20))
    yield way.__name__


def guarded(minutes: float = 0.3, **changes) -> dict:
  # One program, however long the run.
  return small.diffusion(
    mesh={'data': -1},
    guard={'watchdog_minutes': minutes},
    optim={'schedule': 'constant'},
    **changes,
  )


def data_ends(folder, workdir, step):
  fault = {'kind': 'data_stalls', 'step': step}
  child = Child(folder, guarded(), workdir, fault)
  assert child.end() == 1, child.said()
  assert 'Reading data failed near example' in child.said(), child.said()
  assert 'TimeoutError: no batch' in child.said()


def silence_ends(folder, workdir, step):
  fault = {'kind': 'data_stalls', 'step': step, 'silent': True}
  child = Child(folder, guarded(), workdir, fault)
  assert child.end() == 70, child.said()
  assert 'process 0 has hung' in child.said()
  assert 'waiting for data, at step 0' in child.said()


def step_ends(folder, workdir, step):
  fault = {'kind': 'step_hangs', 'step': step}
  child = Child(folder, guarded(), workdir, fault)
  assert child.end() == 70, child.said()
  assert f'waiting for data, at step {step - 1}' in child.said()
  assert 'in stuck' in child.said()


def worker_ends(folder, workdir, step):
  fault = {'kind': 'worker_dies', 'step': step}
  config = guarded(data={'num_workers': 1})
  child = Child(folder, config, workdir, fault)
  assert child.end() == 1, child.said()
  assert 'Reading data failed near example' in child.said()


def rank_hangs(folder, workdir, step):
  fault = {'kind': 'step_hangs', 'step': step}
  # On one busy core two processes take more than a minute to their first step.
  with ranks(folder, guarded(0.6), workdir, ({}, fault)) as children:
    codes = [child.end() for child in children]
    said = '\n\n'.join(child.said() for child in children)
    assert 70 in codes and 0 not in codes, said
    assert f'process 1: waiting for data, at step {step - 1}' in said, said


def rank_dies(folder, workdir, step):
  del step
  config = guarded(num_steps=100_000, log_every=100)
  with ranks(folder, config, workdir, ({}, {}), heartbeat=10) as children:
    for child in children:
      child.wait_for_first_step()
    time.sleep(1)
    children[1].process.kill()
    code = children[0].end(60)
    said = children[0].said()
    assert code not in (0, 75), said
    assert 'task:1' in said or 'process 1' in said or 'peer' in said, said
