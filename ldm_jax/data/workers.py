"""How the processes and threads that read data behave."""

import os
import signal
import threading
import time

from absl import flags

_GRACE = 30.0  # seconds


def num_threads() -> int:
  """Reading threads of a process: as many as cores, 2 to 16."""
  if hasattr(os, 'sched_getaffinity'):  # Of this process, in a container.
    cores = len(os.sched_getaffinity(0))
  else:
    cores = os.cpu_count() or 1
  return min(16, max(2, cores))


def allow_use_without_absl_app() -> None:
  """Lets grain read its own flags in notebooks and tests."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


def start(index: int, count: int) -> None:
  """Runs first in a data worker: quiet on Ctrl-C, patient, never an orphan.

  A batch system sends SIGTERM to every process of a job. The training process
  then wants to finish its step and save, so workers stay for a while.
  """
  del index, count
  os.environ['JAX_PLATFORMS'] = 'cpu'  # No worker may take an accelerator.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, lambda *_: _leave_later())
  parent = os.getppid()
  threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _leave_later() -> None:
  timer = threading.Timer(_GRACE, os._exit, (0,))
  timer.daemon = True
  timer.start()


def _watch(parent: int) -> None:
  """Ends this process when its parent is gone, however that died."""
  while os.getppid() == parent:
    time.sleep(1.0)
  os._exit(1)
