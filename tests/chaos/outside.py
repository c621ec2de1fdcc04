"""Rows in which processes die: each run is a child of this one."""

import contextlib
import multiprocessing
import pathlib
import random
import shutil
import signal
import socket
import time

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
    self.began = context.Event()
    self.log = folder / f'log_{rank[0] if rank else 0}'
    self.log.unlink(missing_ok=True)
    self.process = context.Process(
      target=child.main,
      args=(config, workdir, fault or {}, str(self.log), self.began, rank),
    )
    self.process.start()

  def end(self, limit: float = LIMIT) -> int:
    """Its exit code; kills it after the limit."""
    self.process.join(limit)
    if self.process.exitcode is None:
      self.process.kill()
      self.process.join()
      raise AssertionError(f'still there after {limit} s:\n{self.said()}')
    return self.process.exitcode

  def said(self) -> str:
    return self.log.read_text(errors='replace')[-6000:]

  def wait_for_first_step(self):
    deadline = time.monotonic() + LIMIT
    while not self.began.wait(0.05) and self.process.exitcode is None:
      assert time.monotonic() < deadline, self.said()


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
  """SIGKILL, half at random moments and half at named points of a save."""
  config = small.diffusion(save_every=2, keep_checkpoints=2)
  expected = folder / 'whole'
  begin = time.monotonic()
  child = Child(folder, config, expected)
  child.wait_for_first_step()
  begin = time.monotonic()
  assert child.end() == 0, child.said()
  seconds = time.monotonic() - begin
  number = 0
  while True:
    workdir = folder / 'run'
    newest, kills = 0, []
    while not kills or kills[-1]:
      number += 1
      fault = {}
      if number % 2:
        point = POINTS[number // 2 % len(POINTS)]
        fault = {'kind': 'killed_at', 'point': point, 'nth': rng.randint(1, 5)}
      child = Child(folder, config, workdir, fault)
      if not fault:
        if rng.random() < 0.9:  # Otherwise it may die while it starts.
          child.wait_for_first_step()
        time.sleep(rng.uniform(0, 0.6 * seconds))
        child.process.kill()
      code = child.end()
      assert code in (0, -signal.SIGKILL), child.said()
      steps = valid_steps(workdir)
      assert not newest or steps and steps[-1] >= newest, (newest, steps)
      newest = steps[-1] if steps else 0
      kills.append(code)
      if code:
        yield f'{fault or "any moment"}, then {steps}'
    small.assert_same_run(workdir, expected)
    shutil.rmtree(workdir)


@contextlib.contextmanager
def pair(folder, config, workdir, faults):
  """Two processes of one run, the second with the second fault."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  children = [
    Child(folder, config, workdir, fault, (rank, 2, port))
    for rank, fault in enumerate(faults)
  ]
  try:
    yield children
  finally:
    for child in children:
      child.process.kill()


def both(folder, config, workdir, faults=({}, {})) -> tuple[int, ...]:
  with pair(folder, config, workdir, faults) as children:
    codes = tuple(child.end() for child in children)
    assert codes in ((0, 0), (75, 75)), [c.said() for c in children]
    return codes


def preempted_pair(folder: Folder, rng: random.Random):
  """SIGTERM to one of two processes: both save the same step and leave."""
  config = small.diffusion(mesh={'data': -1}, save_every=10, num_steps=30)
  expected = folder / 'whole'
  assert both(folder, config, expected) == (0, 0)
  for number in range(1000):
    workdir = folder / 'run'
    step = rng.randrange(1, 25)
    phase = ('a step', 'waiting for data', 'saving')[number % 3]
    if phase == 'saving':
      step = 10
    fault = {'kind': 'stopped_at', 'phase': phase, 'step': step}
    faults = ({}, fault) if number % 2 == 0 else (fault, {})
    assert both(folder, config, workdir, faults) == (75, 75)
    assert step <= valid_steps(workdir)[-1] <= step + 12
    assert both(folder, config, workdir) == (0, 0)
    small.assert_same_run(workdir, expected)
    shutil.rmtree(workdir)
    yield f'{phase}, step {step}'


def hangs(folder: Folder, rng: random.Random):
  """Stalls, hangs and deaths end with a word on what and where, in time."""
  ways = (data_ends, silence_ends, step_ends, worker_ends, rank_hangs,
          rank_dies)  # fmt: skip
  for number in range(1000):
    workdir = folder / f'run_{number}'
    way = ways[number % len(ways)]
    way(folder, workdir, rng.randrange(2, 20))
    yield way.__name__


def guarded(**changes) -> dict:
  # Long enough to compile in, on a busy machine.
  return small.diffusion(guard={'watchdog_minutes': 0.5}, **changes)


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
  config = small.diffusion(data={'num_workers': 1})
  child = Child(folder, config, workdir, fault)
  assert child.end() == 1, child.said()
  assert 'Reading data failed near example' in child.said()


def rank_hangs(folder, workdir, step):
  config = guarded(mesh={'data': -1})
  fault = {'kind': 'step_hangs', 'step': step}
  with pair(folder, config, workdir, ({}, fault)) as children:
    codes = [child.end() for child in children]
    assert 70 in codes and 0 not in codes, [c.said() for c in children]
    said = '\n'.join(child.said() for child in children)
    assert f'process 1: waiting for data, at step {step - 1}' in said, said


def rank_dies(folder, workdir, step):
  del step
  config = small.diffusion(mesh={'data': -1}, num_steps=100_000, log_every=100)
  with pair(folder, config, workdir, ({}, {})) as children:
    for child in children:
      child.wait_for_first_step()
    time.sleep(1)
    children[1].process.kill()
    begin = time.monotonic()
    code = children[0].end(60)
    assert code not in (0, 75) and time.monotonic() - begin < 60
    said = children[0].said()
    assert 'task:1' in said or 'process 1' in said or 'peer' in said, said
