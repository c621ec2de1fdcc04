"""Batches that a background thread keeps ready, and what can go wrong then."""

import logging
import queue
import threading
import time
import weakref
from collections.abc import Iterable

import numpy as np

from ldm_jax.data import quarantine
from ldm_jax.types import UserError

# Batches made ahead of the training loop.
_AHEAD = 3
_WARN_AFTER = 60.0  # seconds without a batch


class DataError(RuntimeError):
  """The data pipeline broke: something in it raised, died or stands still."""


class Stream:
  """Iterator over a process's batches, ahead of whoever reads them.

  Attributes:
    next_example: global number of the first example not yet handed out; what a
      checkpoint stores, and `start` of the stream that continues this one.
    stall_limit: seconds without a batch after which `next` raises DataError,
      whether they were spent in `next` or in `wait`.
  """

  def __init__(
    self,
    batches: Iterable[dict],
    batch_size: int,
    start: int,
    watch: quarantine.Quarantine,
    stall_limit: float = 1800.0,
  ):
    self.next_example, self.stall_limit = start, stall_limit
    self._batch_size, self._watch = batch_size, watch
    self._queue = queue.Queue(maxsize=_AHEAD)
    self._stop = threading.Event()
    self._failed = None
    self._since = None  # When the reader first found no batch ready.
    self._thread = threading.Thread(
      target=_fill,
      args=(batches, self._queue, self._stop),
      name='ldm-data',
      daemon=True,
    )
    self._thread.start()
    self._finalizer = weakref.finalize(
      self, _shut_down, self._thread, self._queue, self._stop
    )

  @property
  def num_bad(self) -> int:
    """Bad images met so far, each time counted."""
    return self._watch.num_bad

  def wait(self, seconds: float) -> bool:
    """Waits at most so long for the next batch; whether `next` won't block.

    A loop that must notice a signal while data stalls polls this.
    """
    deadline = time.monotonic() + seconds
    while self._queue.empty():
      dead = self._failed is not None or not self._thread.is_alive()
      if dead or self._waited() > self.stall_limit:
        return True  # `next` raises at once.
      left = deadline - time.monotonic()
      if left <= 0:
        return False
      time.sleep(min(0.005, left))
    return True

  def __iter__(self) -> 'Stream':
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if self._failed is None and self._stop.is_set():
      self._failed = DataError('The data stream was closed.')
    if self._failed is not None:
      raise self._failed
    batch = self._take()
    if isinstance(batch, BaseException):
      self._failed = _explain(batch, self.next_example)
      self.close()
      raise self._failed from batch
    try:
      self._watch.observe(batch.pop(quarantine.KEY), len(batch['example_id']))
    except UserError as e:
      self._failed = e
      self.close()
      raise
    self.next_example += self._batch_size
    self._since = None
    return batch

  def _waited(self) -> float:
    """Seconds since the reader first found nothing."""
    if self._since is None:
      self._since = time.monotonic()
    return time.monotonic() - self._since

  def _take(self) -> dict | BaseException:
    """The next batch or failure."""
    warned = False
    while True:
      try:
        return self._queue.get(timeout=min(0.5, self.stall_limit))
      except queue.Empty:
        waited = self._waited()
      if not self._thread.is_alive() and self._queue.empty():
        return RuntimeError('the reading thread ended')
      if waited > self.stall_limit:
        return TimeoutError(f'no batch for {waited:.0f} s')
      if waited > _WARN_AFTER and not warned:
        logging.warning(
          'No data for %.0f s, at example %d.', waited, self.next_example
        )
        warned = True

  def close(self) -> None:
    """Stops threads and workers; may be called twice."""
    self._finalizer()


def _fill(batches, ready: queue.Queue, stop: threading.Event) -> None:
  """Moves batches into the queue until stopped; failures travel as items."""
  iterator = None
  try:
    iterator = iter(batches)
    while not stop.is_set():
      # Copied out of the memory that worker processes share: grain frees that
      # when its own view of it dies, and complains at exit where it has not.
      batch = {
        key: np.array(value) if _is_shared(value) else value
        for key, value in next(iterator).items()
      }
      _put(ready, batch, stop)
  except StopIteration:
    _put(ready, RuntimeError('the source ended'), stop)
  except BaseException as e:  # Whatever it is, the consumer must hear of it.
    _put(ready, e, stop)
  finally:
    if hasattr(iterator, 'close'):
      iterator.close()


def _is_shared(value) -> bool:
  return isinstance(value, np.ndarray) and type(value) is not np.ndarray


def _put(ready: queue.Queue, item, stop: threading.Event) -> None:
  while not stop.is_set():
    try:
      return ready.put(item, timeout=0.1)
    except queue.Full:
      continue


def _shut_down(thread, ready: queue.Queue, stop: threading.Event) -> None:
  stop.set()
  # A thread that hangs in a dead file system must not hold the program.
  thread.join(timeout=15)
  while not ready.empty():
    ready.get_nowait()


def _explain(error: BaseException, number: int) -> Exception:
  """A UserError as it is, all else as a DataError that says where."""
  if isinstance(error, UserError):
    return error
  message = (
    f'Reading data failed near example {number}:'
    f' {type(error).__name__}: {error}'
  )
  if 'exit code' in message:  # grain's words for a worker that died.
    message += (
      ' (-9: killed, often for memory; -7: /dev/shm is full, so use fewer'
      ' data.num_workers or a larger /dev/shm)'
    )
  return DataError(message)
