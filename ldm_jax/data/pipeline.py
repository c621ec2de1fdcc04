"""A source to batches: shuffled, cropped, prepared, and exactly repeatable.

Example number n of a training stream is a pure function of (seed, n): which
image it is, its crop, its flip and all that the task draws. Batch size, worker
count and process count only decide who reads it, so a run resumes from one
integer, on any number of hosts.
"""

import dataclasses
import logging
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import grain
import numpy as np

from ldm_jax.data import images, quarantine, workers
from ldm_jax.types import UserError

Prepare = Callable[[dict, np.random.Generator], dict]

# Padding of `boxes` where the source does not say how many it can hold; the
# paper's layouts have at most 30 objects.
MAX_BOXES = 30
NO_LABEL = -1

# Batches made ahead of the training loop.
_AHEAD = 3
_STALL_WARNING, _STALL_LIMIT = 60.0, 1800.0  # seconds


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """Where images come from and how they become squares; `config.data`.

  Attributes:
    source: 'scenes', 'folder' or 'tfds:NAME'.
    size: side of the images in pixels, after crop and resize.
    path: the folder of source 'folder'.
    train_split, eval_split: names of the splits.
    tfds_data_dir: where TFDS prepared its datasets; '' is TFDS's default.
    crop: 'center' or 'random' along the longer side (training only).
    flip: whether half of the training images are mirrored.
    resample: 'lanczos' or 'bicubic', antialiased.
    upscale: whether images smaller than `size` are enlarged; otherwise they
      count as bad images.
    num_workers: processes that decode; 0 uses threads alone.
    num_examples, max_objects: of `scenes`; 0 examples is its default.
    holdout: share of a folder without splits that is kept for evaluation.
    max_bad: share of bad images above which a run stops.
  """

  source: str
  size: int
  path: str = ''
  train_split: str = 'train'
  eval_split: str = 'validation'
  tfds_data_dir: str = ''
  crop: str = 'center'
  flip: bool = False
  resample: str = 'lanczos'
  upscale: bool = False
  num_workers: int = 0
  num_examples: int = 0
  max_objects: int = 1
  holdout: float = 0.0
  max_bad: float = 0.01

  def __post_init__(self):
    _check_one_of('crop', self.crop, ('center', 'random'))
    _check_one_of('resample', self.resample, tuple(images.RESAMPLE))
    if self.size < 1:
      raise UserError(f'data.size={self.size}; it must be at least 1 pixel.')
    if self.num_workers < 0:
      raise UserError(f'data.num_workers={self.num_workers}; 0 or more.')
    for name in ('holdout', 'max_bad'):
      share = getattr(self, name)
      if not 0 <= share < 1:
        raise UserError(f'data.{name}={share}; it is a share, 0 <= x < 1.')


def _check_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
  if value not in allowed:
    raise UserError(
      f'data.{name}={value!r}; it must be one of {", ".join(allowed)}.'
    )


def train_stream(
  source,
  prepare: Prepare,
  spec: DataSpec,
  *,
  batch_size: int,
  seed: int,
  start: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  keep_text: bool = False,
  quarantine_dir: str = '',
) -> 'Stream':
  """Endless training batches, from global example number `start` on.

  Args:
    source: see ldm_jax/data/sources.py.
    prepare: the task's function of (example, generator), picklable; runs in
      the workers on cropped examples whose image is float32 in [-1, 1].
    spec: how images become squares.
    batch_size: examples of a step over all processes; each process gets its
      contiguous slice.
    seed: decides order, crops, flips and what `prepare` draws.
    start: 0, or the `next_example` of an earlier stream.
    process_index, process_count: this host's place among all.
    keep_text: whether strings stay, as arrays of objects.
    quarantine_dir: folder that gets `quarantine.jsonl`, a line per bad image.

  Raises:
    UserError: the first example cannot be used, or too many cannot.
  """
  check_source(source, prepare, spec)
  if batch_size % process_count:
    raise UserError(
      f'batch_size={batch_size} is not a multiple of the {process_count}'
      ' processes.'
    )
  local = batch_size // process_count
  numbered = (
    grain.MapDataset.range(len(source))
    .seed(seed % 2**32)
    .shuffle()
    .repeat()
    .map(_Read(source, spec))
    .random_map(_Transform(prepare, spec))
  )
  which = _LocalNumbers(start, batch_size, local, process_index)
  examples = grain.MapDataset.range(sys.maxsize).map(_Get(numbered, which))
  watch = quarantine.Quarantine(
    len(source), spec.max_bad, quarantine_dir, process_index
  )
  batches = _batches(
    examples, source, spec.num_workers, local, _Collate(source, keep_text)
  )
  return Stream(batches, batch_size, start, watch)


def eval_batches(
  source,
  prepare: Prepare,
  spec: DataSpec,
  *,
  batch_size: int,
  limit: int = 0,
  seed: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  keep_text: bool = False,
) -> Iterator[dict]:
  """The first `limit` examples (0: all) in order, once, cropped centrally.

  Every batch is full: the last one repeats the last example, and the
  repetitions have `example_id` -1. `batch_size` counts all processes.
  """
  spec = dataclasses.replace(spec, crop='center', flip=False)
  if batch_size % process_count:
    raise UserError(
      f'batch_size={batch_size} is not a multiple of the {process_count}'
      ' processes.'
    )
  count = min(limit or len(source), len(source))
  if not count:
    raise UserError(f'{source!r} has no examples to evaluate on.')
  local = batch_size // process_count
  numbered = (
    grain.MapDataset.range(len(source))
    .map(_Read(source, spec))
    .random_map(_Transform(prepare, spec), seed=seed % 2**32)
  )
  collate = _Collate(source, keep_text)
  watch = quarantine.Quarantine(len(source), spec.max_bad, '', process_index)
  for first in range(process_index * local, count, batch_size) or [0]:
    numbers = range(first, first + local)
    batch = collate([numbered[min(n, count - 1)] for n in numbers])
    padding = np.array([n >= count for n in numbers])
    batch['example_id'][padding] = -1
    watch.observe(batch.pop(quarantine.KEY), local)
    yield batch


def check_source(source, prepare: Prepare, spec: DataSpec) -> None:
  """Raises UserError where training could not begin: reads a few examples.

  The first example must be usable, and of up to 100 spread over the source no
  more may be bad than `spec.max_bad` allows.
  """
  length = len(source)
  if not length:
    raise UserError(f'{source!r} has no images.')
  read = _Read(source, spec)
  stored = hasattr(source, 'name')  # Not drawn: files can be damaged.
  probes = np.unique(
    np.linspace(0, length - 1, 100 if stored else 1, dtype=int)
  )
  bad = []
  for index in probes.tolist():
    try:
      example = read.one(index)
    except images.BadImage as e:
      bad.append(f'{read.name(index)}: {e}')
      if index == 0 and length > 1:
        continue
      example = None
    if index == 0 and example is not None:
      _Transform(prepare, spec)(example, np.random.default_rng(0))
  if quarantine.too_many(
    len(bad), len(probes), spec.max_bad, whole=len(probes) == length
  ):
    raise UserError(
      f'{len(bad)} of {len(probes)} images cannot be used, over the'
      f' {spec.max_bad:.1%} of data.max_bad. The first: {bad[0]}'
    )


class _Read:
  """Source index -> example; an image that cannot be used is replaced.

  The replacement is a pure function of the index, so no position moves.
  """

  def __init__(self, source, spec: DataSpec):
    self.source, self.spec = source, spec

  def name(self, index: int) -> str:
    if hasattr(self.source, 'name'):
      return self.source.name(index)
    return f'{self.source!r}[{index}]'

  def one(self, index: int) -> dict:
    """The example at an index, or BadImage."""
    example = self.source[index]
    height, width = example['image'].shape[:2]
    if min(height, width) < self.spec.size and not self.spec.upscale:
      raise images.BadImage(
        f'{width}x{height} is smaller than the crop of {self.spec.size} pixels'
        ' (data.upscale=True enlarges small images)'
      )
    return example

  def __call__(self, index: int) -> dict:
    bad = []
    index = int(index)
    for candidate in quarantine.candidates(index, len(self.source)):
      try:
        example = dict(self.one(candidate))
      except images.BadImage as e:
        bad.append((candidate, self.name(candidate), str(e)))
        continue
      example['example_id'] = candidate
      example[quarantine.KEY] = bad
      return example
    _, name, reason = bad[-1]
    raise UserError(
      f'{len(bad)} images in a row cannot be used; the last: {name}: {reason}'
    )


class _Transform:
  """(example, generator) -> cropped, flipped, scaled, prepared example."""

  def __init__(self, prepare: Prepare, spec: DataSpec):
    self.prepare, self.spec = prepare, spec

  def __call__(self, example: dict, rng: np.random.Generator) -> dict:
    spec = self.spec
    # Always three draws, so that no option changes what `prepare` draws.
    y, x, mirror = rng.random(3)
    example = images.crop(
      example,
      spec.size,
      place=(y, x) if spec.crop == 'random' else (0.5, 0.5),
      flip=spec.flip and mirror < 0.5,
      resample=spec.resample,
    )
    example['image'] = images.to_float(example['image'])
    kept = {
      key: example.pop(key)
      for key in ('example_id', quarantine.KEY)
      if key in example
    }
    return {**self.prepare(example, rng), **kept}


@dataclasses.dataclass(frozen=True)
class _LocalNumbers:
  """Position in a process's own stream -> global example number."""

  start: int
  batch_size: int
  local: int
  process_index: int

  def __call__(self, position: int) -> int:
    step, slot = divmod(int(position), self.local)
    first = self.start + step * self.batch_size
    return first + self.process_index * self.local + slot


class _Get:
  """Position -> example of another dataset; picklable."""

  def __init__(self, examples: grain.MapDataset, which: _LocalNumbers):
    self.examples, self.which = examples, which

  def __call__(self, position: int) -> dict:
    return self.examples[self.which(position)]


class _Collate:
  """A list of examples -> one dict of arrays."""

  def __init__(self, source, keep_text: bool):
    self.max_boxes = getattr(source, 'max_objects', MAX_BOXES)
    self.keep_text = keep_text

  def __call__(self, examples: list[dict]) -> dict:
    batch = {}
    for key in examples[0]:
      values = [example[key] for example in examples]
      if key == quarantine.KEY:
        batch[key] = quarantine.pack(values)
      elif isinstance(values[0], str):
        if self.keep_text:
          batch[key] = np.array(values, dtype=object)
      elif key in ('boxes', 'box_labels'):
        batch[key] = self._pad(key, values)
      else:
        batch[key] = _stack(key, values)
    return batch

  def _pad(self, key: str, values: list[np.ndarray]) -> np.ndarray:
    """[N ...] of several lengths -> [B max_boxes ...]."""
    is_boxes = key == 'boxes'
    shape = (len(values), self.max_boxes, *values[0].shape[1:])
    fill = 0 if is_boxes else NO_LABEL
    padded = np.full(shape, fill, np.float32 if is_boxes else np.int32)
    for row, value in zip(padded, values):
      count = min(len(value), self.max_boxes)
      row[:count] = value[:count]
    return padded


def _stack(key: str, values: list) -> np.ndarray:
  arrays = [np.asarray(value) for value in values]
  shapes = {array.shape for array in arrays}
  if len(shapes) > 1:
    raise UserError(
      f'{key!r} has several shapes within a batch: {sorted(shapes)}. The'
      " task's prepare must give every example the same shape."
    )
  stacked = np.stack(arrays)
  if stacked.dtype == np.float64:
    return stacked.astype(np.float32)
  if stacked.dtype == np.int64 and key != 'example_id':
    return stacked.astype(np.int32)
  return stacked


def _batches(
  examples: grain.MapDataset, source, num_workers: int, size: int, collate
) -> grain.IterDataset:
  """The reading plan: threads per example, or processes per batch."""
  if num_workers:
    workers.allow_use_without_absl_app()
    return (
      examples.batch(size, drop_remainder=True, batch_fn=collate)
      .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
      .mp_prefetch(
        grain.MultiprocessingOptions(
          num_workers=num_workers, per_worker_buffer_size=2
        ),
        worker_init_fn=workers.start,
      )
    )
  # Decoding releases the GIL; drawing in numpy does not and is better alone.
  threads = workers.num_threads() if hasattr(source, 'name') else 0
  options = grain.ReadOptions(
    num_threads=threads, prefetch_buffer_size=4 * threads
  )
  return examples.to_iter_dataset(options).batch(
    size, drop_remainder=True, batch_fn=collate
  )


class DataError(RuntimeError):
  """The data pipeline broke: a worker died, raised or stands still."""


class Stream:
  """Iterator over batches that a background thread keeps ready.

  Attributes:
    next_example: global number of the first example not yet handed out; what a
      checkpoint stores, and `start` of the stream that continues this one.
    num_bad: images replaced so far.
  """

  def __init__(self, batches, batch_size: int, start: int, watch):
    self.next_example = start
    self._batch_size, self._watch = batch_size, watch
    self._queue = queue.Queue(maxsize=_AHEAD)
    self._stop = threading.Event()
    self._failed = None
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
    return self._watch.num_bad

  def __iter__(self) -> 'Stream':
    return self

  def ready(self) -> bool:
    """Whether the next batch can be had without waiting."""
    return not self._queue.empty()

  def wait(self, seconds: float) -> bool:
    """Waits for the next batch at most so long; says whether it is there.

    A loop that must notice a signal while data stalls polls this.
    """
    deadline = time.monotonic() + seconds
    while not self.ready() and self._failed is None:
      left = deadline - time.monotonic()
      if left <= 0 or self._stop.is_set():
        return False
      time.sleep(min(0.01, left))
    return True

  def __next__(self) -> dict[str, np.ndarray]:
    if self._failed is not None:
      raise self._failed
    if self._stop.is_set():
      raise DataError('The data stream was closed.')
    batch = self._take()
    if isinstance(batch, BaseException):
      self._failed = _explain(batch, self.next_example)
      self.close()
      raise self._failed from batch
    bad = batch.pop(quarantine.KEY)
    try:
      self._watch.observe(bad, len(batch['example_id']))
    except UserError as e:
      self._failed = e
      self.close()
      raise
    self.next_example += self._batch_size
    return batch

  def _take(self):
    """The next batch or exception, watching for a pipeline that stands."""
    begin, warned = time.monotonic(), False
    while True:
      try:
        return self._queue.get(timeout=0.5)
      except queue.Empty:
        waited = time.monotonic() - begin
      if not self._thread.is_alive() and self._queue.empty():
        return DataError('the reading thread ended')
      if waited > _STALL_WARNING and not warned:
        logging.warning(
          'No data for %d s, at example %d.', waited, self.next_example
        )
        warned = True
      if waited > _STALL_LIMIT:
        return DataError(f'no batch came for {waited:.0f} s')

  def close(self) -> None:
    """Stops threads and workers; may be called twice."""
    self._finalizer()


def _fill(batches, ready: queue.Queue, stop: threading.Event) -> None:
  """Moves batches into the queue until stopped; errors travel as items."""
  iterator = None
  try:
    iterator = iter(batches)
    while not stop.is_set():
      _put(ready, next(iterator), stop)
  except StopIteration:
    _put(ready, DataError('the source ended'), stop)
  except BaseException as e:  # Whatever it is, the consumer must hear of it.
    _put(ready, e, stop)
  finally:
    if iterator is not None:
      iterator.close()


def _put(ready: queue.Queue, item, stop: threading.Event) -> None:
  while not stop.is_set():
    try:
      return ready.put(item, timeout=0.1)
    except queue.Full:
      continue


def _shut_down(thread, ready: queue.Queue, stop: threading.Event) -> None:
  stop.set()
  thread.join(timeout=30)
  while not ready.empty():
    ready.get_nowait()


def _explain(error: BaseException, number: int) -> Exception:
  """UserErrors as they are, all else as a DataError that says where."""
  if isinstance(error, UserError):
    return error
  return DataError(
    f'Reading data failed near example {number}:'
    f' {type(error).__name__}: {error}'
  )
