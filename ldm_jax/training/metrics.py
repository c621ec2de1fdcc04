"""What a run says: metrics.jsonl, TensorBoard, image grids, one line."""

import contextlib
import json
import logging
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import jax
import numpy as np
from PIL import Image

from ldm_jax import whole
from ldm_jax.training import text_log

_logger = logging.getLogger(__name__)


class Writer:
  """Writes scalars and images of a run; only process 0 writes anything."""

  def __init__(self, workdir, step: int = 0, tensorboard: bool = True):
    """Goes on after `step`: later lines of metrics.jsonl are dropped."""
    self._workdir = pathlib.Path(workdir)
    self._active = jax.process_index() == 0
    self._board = None
    if not self._active:
      return
    self._workdir.mkdir(parents=True, exist_ok=True)
    path = self._workdir / 'metrics.jsonl'
    keep_until(path, step)
    self._file = path.open('a', encoding='utf-8')
    if tensorboard:
      self._board = _open_tensorboard(self._workdir)

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends {'step': step, **values}; what is not finite becomes null."""
    if not self._active:
      return
    numbers = {key: _number(value) for key, value in values.items()}
    # One write per line, so that a kill leaves whole lines, and readers that
    # follow the file see each as soon as it is there.
    self._file.write(json.dumps({'step': int(step), **numbers}) + '\n')
    self._file.flush()
    if self._board is not None:
      finite = {k: v for k, v in numbers.items() if v is not None}
      self._board.write_scalars(int(step), finite)

  def image(
    self, step: int, name: str, image: np.ndarray
  ) -> pathlib.Path | None:
    """Writes an image uint8 [H W 3]; returns its path."""
    if not self._active:
      return None
    folder = self._workdir / 'samples'
    folder.mkdir(exist_ok=True)
    path = folder / f'step_{int(step):07d}_{name}.png'
    with whole.written(path) as place:
      Image.fromarray(image).save(place, format='PNG')
    if self._board is not None:
      self._board.write_images(int(step), {name: image[None]})
    return path

  def close(self) -> None:
    """Flushes and closes the files."""
    if self._active:
      self._file.close()
      if self._board is not None:
        self._board.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def keep_until(path: pathlib.Path, step: int) -> None:
  """Drops torn lines and those of steps after `step`, in one replacement.

  At step 0 nothing has been trained yet, and nothing is kept.
  """
  if not path.exists():
    return
  old = path.read_text(encoding='utf-8')
  kept = []
  for line in old.splitlines(keepends=True):
    try:
      reached = json.loads(line)['step']
    except (ValueError, KeyError, TypeError):
      continue  # A kill in the middle of a write tears the last line.
    if line.endswith('\n') and 0 < step and reached <= step:
      kept.append(line)
  new = ''.join(kept)
  if new != old:
    with whole.written(path) as place:
      place.write_text(new, encoding='utf-8')


class Progress:
  """One line about the run: rewritten in a terminal, appended in a log.

  Rates are over the time since the line before; `paused` time (saving,
  sampling) does not count, and neither does the first step, which compiles.
  """

  def __init__(
    self,
    total: int,
    start: int,
    batch_size: int,
    out: TextIO | None = None,
    clock=time.monotonic,
  ):
    self._total = total
    self._batch_size = batch_size
    self._out = sys.stderr if out is None else out
    self._clock = clock
    self._tty = self._out.isatty()
    self._width = 0
    self._active = jax.process_index() == 0
    self._first = start
    self._restart(start)

  def _restart(self, step):
    self._step = step
    self._since = self._clock()
    self._waited = self._paused = 0.0

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Around the call that fetches the next batch."""
    before = self._clock()
    yield
    self._waited += self._clock() - before

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Around what is not training: saving, sampling, evaluating."""
    before = self._clock()
    yield
    self._paused += self._clock() - before

  def compiled(self, step: int) -> None:
    """Call after the first step has finished: rates start from here."""
    self._restart(step)

  def log(self, step: int, scalars: Mapping[str, Any]) -> dict[str, float]:
    """Prints the line; returns its figures.

    `scalars` should hold `loss` and `learning_rate`. Returns images_per_second,
    data_wait (a share of the time), eta_seconds and memory_bytes.
    """
    seconds = max(self._clock() - self._since - self._paused, 1e-9)
    done = step - self._step
    per_second = done / seconds
    figures = {
      'images_per_second': per_second * self._batch_size,
      'data_wait': min(self._waited / seconds, 1.0),
      'eta_seconds': (
        (self._total - step) / per_second if per_second else math.inf
      ),
      'memory_bytes': float(memory_bytes()),
    }
    self._print(self._line(step, scalars, figures), step)
    self._restart(step)
    return figures

  def close(self) -> None:
    """Ends the line, where it is a terminal's."""
    if self._active and self._tty and self._width:
      print(file=self._out, flush=True)
      self._width = 0

  def _line(self, step, scalars, figures):
    parts = [
      f'step {step}/{self._total}',
      f'{figures["images_per_second"]:.1f} img/s',
      f'eta {duration(figures["eta_seconds"])}',
    ]
    for key, label in (('loss', 'loss'), ('learning_rate', 'lr')):
      if key in scalars:
        parts.append(f'{label} {float(scalars[key]):.4g}')
    parts.append(f'data {figures["data_wait"]:.0%}')
    parts.append(f'mem {figures["memory_bytes"] / 2**30:.2f} GiB')
    return '  '.join(parts)

  def _print(self, line, step):
    if not self._active:
      return
    text_log.note(line)
    if not self._tty:
      print(line, file=self._out, flush=True)
      return
    # Blanks cover what a longer line left behind.
    print('\r' + line.ljust(self._width), end='', file=self._out, flush=True)
    self._width = len(line)
    if step >= self._total:
      self.close()


def duration(seconds: float) -> str:
  """12s, 3m05s, 2h10m, 4d03h; '?' where it is not known."""
  if not math.isfinite(seconds):
    return '?'
  seconds = int(round(seconds))
  if seconds < 60:
    return f'{seconds}s'
  if seconds < 3600:
    return f'{seconds // 60}m{seconds % 60:02d}s'
  if seconds < 86400:
    return f'{seconds // 3600}h{seconds % 3600 // 60:02d}m'
  return f'{seconds // 86400}d{seconds % 86400 // 3600:02d}h'


def memory_bytes() -> int:
  """Most bytes in use on the first device here, or of this process on a CPU."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use']
  try:
    import resource  # Not on Windows.
  except ImportError:
    return 0
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else peak * 1024


def host_memory_bytes() -> int:
  """Physical memory of this host."""
  return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def _open_tensorboard(workdir):
  """clu's SummaryWriter, or None and one line where it cannot be had."""
  try:
    import tensorflow as tf
    from clu import metric_writers
  except ImportError as error:
    _logger.info(
      'No TensorBoard files: %s (metrics.jsonl has every scalar). '
      'For TensorBoard: pip install tensorflow clu.',
      error,
    )
    return None
  # TensorFlow would otherwise take the whole GPU.
  tf.config.set_visible_devices([], 'GPU')
  return metric_writers.SummaryWriter(str(workdir))


def _number(value) -> float | int | None:
  value = np.asarray(value).item()
  if isinstance(value, float) and not math.isfinite(value):
    return None  # NaN is not JSON.
  return value
