"""Being told to stop: finish the step, save, leave with a known exit code."""

import os
import signal
import threading

import jax
from absl import logging
from jax.experimental import multihost_utils

# EX_TEMPFAIL of sysexits.h: the run is saved; start it again to go on. A
# scheduler can requeue on it (SLURM: scontrol requeue; Kubernetes: a
# podFailurePolicy on this code).
EXIT_CODE = 75


class Preemption:
  """Notices SIGTERM and SIGINT while it is entered.

  In one process the signals are caught here; a second SIGINT (Ctrl-C) ends the
  run at once, while any number of SIGTERMs is one request. In several
  processes JAX's preemption service catches SIGTERM in whichever process it
  reaches, and all of them agree on the step at which they stop.
  """

  def __init__(self):
    self._signalled = threading.Event()
    self._interrupts = 0
    self._previous = {}
    self._many = False
    self._asked = None
    self._count = -1

  def __enter__(self):
    self._many = jax.process_count() > 1
    # With several processes SIGTERM belongs to JAX's service: a handler here
    # would hide it from the others.
    signals = (
      (signal.SIGINT,) if self._many else (signal.SIGINT, signal.SIGTERM)
    )
    for number in signals:
      self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *_):
    for number, handler in self._previous.items():
      signal.signal(number, handler)
    self._previous.clear()

  @property
  def signalled(self) -> bool:
    """Whether this very process was told to stop; costs nothing to ask."""
    return self._signalled.is_set()

  def requested(self, step: int) -> bool:
    """Whether to stop after `step`; the same in every process.

    Every process asks at each step, in order. Asked again at the same step,
    several processes get the answer that they had, one the newest.
    """
    if not self._many:
      return self.signalled
    # Counted here, and from 0: a signal that comes before the first makes JAX's
    # service stop at 1 exactly, which a run that goes on is past.
    if step != self._asked:
      self._asked, self._count = step, self._count + 1
    return multihost_utils.reached_preemption_sync_point(self._count)

  def _handle(self, number, frame):
    del frame
    if number == signal.SIGINT:
      self._interrupts += 1
      if self._interrupts > 1:
        raise KeyboardInterrupt
    first = not self._signalled.is_set()
    self._signalled.set()
    if first:
      logging.warning(
        '%s: saving after this step, then leaving with exit code %d.',
        signal.Signals(number).name,
        EXIT_CODE,
      )
      if self._many:
        os.kill(os.getpid(), signal.SIGTERM)  # Tells JAX's service.
