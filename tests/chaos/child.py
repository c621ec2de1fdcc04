"""One process of a training run, with what is to go wrong in it."""

import os
import signal
import sys
import threading
import time

import jax
import numpy as np

# Imported here, so that a fork server has it all when it forks a child.
import train
from ldm_jax.data.stream import Stream
from ldm_jax.training import checkpoint, launcher, parallel
from ldm_jax.training.watchdog import Watchdog
from ldm_jax.types import UserError
from tests.chaos import small


def main(config: dict, workdir, fault: dict, log, heard, rank=None) -> None:
  """Trains and leaves with train.py's exit code.

  Args:
    config, workdir: of train.train.
    fault: what breaks: {'kind': name, ...}; see the functions below.
    log: file that gets stdout and stderr.
    heard: (a count, a text) in shared memory: how often the loop said what it
      is about to do, and what that was.
    rank: (its number, how many, port, seconds after which one that is gone is
      missed) in a run of several processes.
  """
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(file, 1)
  os.dup2(file, 2)
  sys.stdout = os.fdopen(1, 'w', buffering=1)
  sys.stderr = os.fdopen(2, 'w', buffering=1)
  sys.__stderr__ = sys.stderr
  # One device unless several are asked for: less to start.
  devices = fault.get('devices', 1)
  os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={devices}'
  parallel.MIN_SHARDED_ELEMENTS = fault.get('shard_from', 2**16)
  tell(*heard)
  if rank is not None:
    join(rank)
  globals()[fault.get('kind', 'nothing')](fault)
  paced(fault.get('pace', 0.0))
  try:
    code = train.train(config, str(workdir))
  except UserError as error:
    print(f'Error: {error}')
    code = 2
  except (
    train.guard.TooManyBadSteps,
    checkpoint.SaveError,
    train.runs.DataError,
  ) as error:
    print(f'Error: {error}')
    code = 1
  print(f'Exit code {code}.')
  os._exit(code)


def tell(count, text):
  at, restore, first = Watchdog.at, checkpoint.items_lib.restore, []

  def say(phase):
    text.value = phase.encode()
    count.value += 1

  def spoken(self, phase, step):
    at(self, phase, step)
    if phase == 'a step':
      first.append(step)
    say('the first step' if phase == 'a step' and len(first) == 1 else phase)

  def restoring(*args):
    say('restoring')
    return restore(*args)

  Watchdog.at, checkpoint.items_lib.restore = spoken, restoring


def join(rank):
  number, count, port, heartbeat = rank
  os.environ |= {
    'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
    'JAX_NUM_PROCESSES': str(count),
    'JAX_PROCESS_ID': str(number),
  }
  initialize = jax.distributed.initialize
  jax.distributed.initialize = lambda **kwargs: initialize(
    heartbeat_timeout_seconds=heartbeat, **kwargs
  )
  launcher.initialize()


def nothing(fault):
  del fault


def paced(seconds):
  """Steps that take at least so long."""
  to_device = small.runs.Run.to_device

  def slowly(self, batch):
    time.sleep(seconds)
    return to_device(self, batch)

  if seconds:
    small.runs.Run.to_device = slowly


def restores(fault):
  """Leaves with 3 unless all that is restored is what is in `file`."""
  resume = small.runs.resume

  def compared(run, checkpoints):
    found = state, held, _ = resume(run, checkpoints)
    leaves = small.named_leaves(run.to_items(state, held))
    leaves = {name: parallel.fetch(leaf) for name, leaf in leaves.items()}
    try:
      small.assert_same_arrays(leaves, dict(np.load(fault['file'])))
    except AssertionError as error:
      print(f'Other arrays: {error}')
      os._exit(3)
    return found

  small.runs.resume = compared


def killed_at(fault):
  """SIGKILL at the `nth` time that a save comes to `point`."""
  left = [fault['nth']]

  def at_point(name):
    left[0] -= name == fault['point']
    if left[0] == 0:
      os.kill(os.getpid(), signal.SIGKILL)

  checkpoint.at_point = at_point


def stopped_at(fault):
  """SIGTERM, or another, when the loop is about to do `phase` at `step`."""
  at = Watchdog.at

  def spoken(self, phase, step):
    at(self, phase, step)
    if phase == fault['phase'] and fault.get('step', step) == step:
      for _ in range(fault.get('times', 1)):
        os.kill(os.getpid(), fault.get('signal', signal.SIGTERM))

  Watchdog.at = spoken


def data_stalls(fault):
  """No batch any more from `step` on, as of a dead storage."""
  wait, calls = Stream.wait, [0]

  def stuck(self, seconds):
    calls[0] += 1
    if calls[0] > fault['step']:
      time.sleep(seconds)
      return self._waited() > self.stall_limit
    return wait(self, seconds)

  def take(self):
    return TimeoutError('no batch')

  Stream.wait = stuck
  if fault.get('silent'):  # The storage hangs in a call that never returns.
    Stream.wait = lambda self, seconds: threading.Event().wait()
  else:
    Stream._take = lambda self: (
      take(self) if calls[0] > fault['step'] else self._queue.get()
    )


def step_hangs(fault):
  """The loop blocks before a step, as in a collective that nobody joins."""
  to_device, calls = small.runs.Run.to_device, [0]

  def stuck(self, batch):
    calls[0] += 1
    if calls[0] == fault['step']:
      threading.Event().wait()
    return to_device(self, batch)

  small.runs.Run.to_device = stuck


def worker_dies(fault):
  """The process that reads data is killed, as for want of memory."""
  to_device, calls = small.runs.Run.to_device, [0]

  def stuck(self, batch):
    calls[0] += 1
    if calls[0] == fault['step']:
      import multiprocessing

      for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)
    return to_device(self, batch)

  small.runs.Run.to_device = stuck
