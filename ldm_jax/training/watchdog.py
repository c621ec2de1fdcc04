"""A run that stands still says where, and ends, instead of waiting for ever.

A dead storage, a lost host or a stuck collective blocks the loop without an
error. The loop says what it is about to do; when it has not spoken for too
long, a thread prints what each process of the run was doing and the stacks of
this one, and ends it. The same command then goes on from the last checkpoint.
"""

import faulthandler
import os
import sys
import threading
import time

import jax
from jax._src import distributed

from ldm_jax.training import text_log

# EX_SOFTWARE of sysexits.h: this process hung. Start it again.
EXIT_CODE = 70

_KEY = 'ldm_watchdog'


class Watchdog:
  """Ends the process `limit` seconds after the last word of the loop.

  Args:
    limit: seconds; 0 watches nothing. Until `compiled` is called, it is four
      times as long.
    die: ends the process; what it raises or does is up to tests.
  """

  def __init__(self, limit: float, die=os._exit):
    self._limit, self._die = limit, die
    self._patience = 4.0
    self._stop = threading.Event()
    self._thread = None
    self._last = ('starting', 0, time.monotonic())

  def at(self, phase: str, step: int) -> None:
    """The loop is about to do `phase`; costs nothing."""
    self._last = (phase, step, time.monotonic())

  def compiled(self) -> None:
    """The first step is done: from here on every phase is a short one."""
    self._patience = 1.0

  def __enter__(self):
    self.at('starting', 0)
    if self._limit:
      self._thread = threading.Thread(
        target=self._watch, name='ldm-watchdog', daemon=True
      )
      self._thread.start()
    return self

  def __exit__(self, *_):
    self._stop.set()
    if self._thread is not None:
      self._thread.join()

  def report(self) -> str:
    """What every process was last heard to do, one line each."""
    mine = f'process {jax.process_index()}: {_said(*self._last)}'
    lines = [
      f'process {rank}: {text}'
      for rank in range(jax.process_count())
      if rank != jax.process_index() and (text := _heard(rank))
    ]
    return '\n'.join([mine, *lines])

  def _watch(self):
    pause = min(10.0, self._limit / 4)
    silent, heard = 0.0, None
    # Counted here and not by the clock: a process that was suspended (SIGSTOP,
    # a scheduler's, a laptop's lid) has not hung.
    while not self._stop.wait(pause):
      _tell(_said(*self._last))
      silent = silent + pause if self._last is heard else 0.0
      heard = self._last
      if silent >= self._patience * self._limit:
        self._end(*heard[:2], silent)
        return

  def _end(self, phase, step, seconds):
    said = (
      f'Error: process {jax.process_index()} has hung for '
      f'{seconds:.0f} s: {phase}, at step {step} '
      '(guard.watchdog_minutes). The same command goes on from the last '
      f'checkpoint.\n{self.report()}'
    )
    text_log.note(said)
    print(f'{said}\nThe stacks of this process:', file=sys.stderr, flush=True)
    faulthandler.dump_traceback(file=sys.__stderr__)
    self._die(EXIT_CODE)


def _said(phase: str, step: int, since: float) -> str:
  return f'{phase}, at step {step}, for {time.monotonic() - since:.0f} s'


# The processes of a run share a table through JAX's coordinator. jax has no
# public door to it; orbax and flax use this one.


def _tell(text: str) -> None:
  client = distributed.global_state.client
  if client is not None:
    try:
      key = f'{_KEY}/{jax.process_index()}'
      client.key_value_set(key, text, allow_overwrite=True)
    except Exception:  # The coordinator may be what is gone.
      pass


def _heard(rank: int) -> str:
  client = distributed.global_state.client
  try:
    return client.key_value_try_get(f'{_KEY}/{rank}') if client else ''
  except Exception as error:
    return f'not heard of ({str(error).splitlines()[0]})'
