"""A source to batches: shuffled, cropped, prepared, and exactly repeatable.

Example number n of a training stream is a pure function of (seed, n): which
image it is, its crop, its flip and all that the task draws. Batch size, worker
count and process count only decide who reads it, so a run resumes from one
integer, on any number of hosts.
"""

import sys
from collections.abc import Iterator

import grain
import numpy as np

from ldm_jax.data import images, quarantine, workers
from ldm_jax.data.examples import Collate, Prepare, Read, Transform
from ldm_jax.data.spec import DataSpec
from ldm_jax.data.stream import DataError, Stream
from ldm_jax.types import UserError

__all__ = [
  'DataError',
  'DataSpec',
  'Prepare',
  'Stream',
  'check_source',
  'eval_batches',
  'train_stream',
]

# How a folder comes to have what a task may need.
_WHERE_FROM = {
  'label': ' A folder has labels by folders of classes, or by "label" in its'
  ' metadata.jsonl.',
  'text': ' A folder has captions by "text" in its metadata.jsonl.',
}
# Stored images that `check_source` tries.
_PROBES = 100


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
) -> Stream:
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
  local = _local_size(batch_size, process_count)
  check_source(source, prepare, spec)
  # Two seeds of our own: grain's would change with the shape of the pipeline,
  # and a resumed run with it.
  order_seed, draw_seed = np.random.SeedSequence(seed).generate_state(2)
  numbered = (
    grain.MapDataset.range(len(source))
    .shuffle(seed=int(order_seed))
    .repeat()
    .map(Read(source, spec))
    .random_map(Transform(prepare, spec), seed=int(draw_seed))
  )
  mine = _Mine(numbered, start, batch_size, local, process_index)
  batches = _reading_plan(
    grain.MapDataset.range(sys.maxsize).map(mine),
    local,
    Collate(source, keep_text),
    num_workers=spec.num_workers,
    # Decoding releases the GIL; drawing in numpy does not, and is better alone.
    num_threads=workers.num_threads() if _is_stored(source) else 0,
  )
  watch = quarantine.Quarantine(
    len(source), spec.max_bad, quarantine_dir, process_index
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

  Every batch is full, and every process yields equally many: the end is filled
  up with the last example, under `example_id` -1. `batch_size` counts all
  processes. What `prepare` draws depends on `seed` and the example's index.
  """
  local = _local_size(batch_size, process_count)
  count = min(limit or len(source), len(source))
  if not count:
    raise UserError(f'{source!r} has no images to evaluate on.')
  spec = spec.centred()
  numbered = (
    grain.MapDataset.range(len(source))
    .map(Read(source, spec))
    .random_map(Transform(prepare, spec), seed=seed % 2**32)
  )
  collate = Collate(source, keep_text)
  watch = quarantine.Quarantine(len(source), spec.max_bad)

  def batches():
    for first in range(0, count, batch_size):
      numbers = first + process_index * local + np.arange(local)
      batch = collate([numbered[int(min(n, count - 1))] for n in numbers])
      batch['example_id'][numbers >= count] = -1
      watch.observe(batch.pop(quarantine.KEY), local)
      yield batch

  return batches()


def check_source(source, prepare: Prepare, spec: DataSpec) -> None:
  """Raises UserError where training could not begin; reads a few examples.

  Labels that the task needs must be there. Of up to 100 images spread over the
  source (all, if it has no more) no more may be bad than `spec.max_bad` allows.
  """
  length = len(source)
  if not length:
    raise UserError(f'{source!r} has no images.')
  read, transform = Read(source, spec), Transform(prepare, spec)
  bad, indices = [], _probes(source)
  for index in indices:
    try:
      example = read.one(index)
    except images.BadImage as e:
      bad.append(f'{read.name(index)}: {e}')
      continue
    _check_labels(example, source, prepare)
    transform(example, np.random.default_rng(0))
  exact = len(indices) == length
  if quarantine.too_many(len(bad), len(indices), spec.max_bad, exact):
    raise UserError(
      f'{len(bad)} of {len(indices)} images tried in {source!r} cannot be used;'
      f' data.max_bad allows {spec.max_bad:.1%}. The first: {bad[0]}.'
    )


def _probes(source) -> list[int]:
  """Indices worth trying: evenly spaced, and the extreme labels."""
  last = len(source) - 1
  if not _is_stored(source):
    return [0]
  indices = {*np.linspace(0, last, min(_PROBES, last + 1), dtype=int).tolist()}
  if labels := getattr(source, 'labels', None):
    indices |= {int(np.argmin(labels)), int(np.argmax(labels))}
  return sorted(indices)


def _is_stored(source) -> bool:
  """Whether images are read and decoded, and may be damaged; not drawn."""
  return hasattr(source, 'name')


def _check_labels(example: dict, source, prepare: Prepare) -> None:
  for key in getattr(prepare, 'needs', ()):
    if key not in example:
      has = sorted(set(example) - {'example_id'})
      raise UserError(
        f'The task needs {key!r}, which {source!r} does not have: its examples'
        f' hold {", ".join(has)}.{_WHERE_FROM.get(key, "")}'
      )


def _local_size(batch_size: int, process_count: int) -> int:
  if batch_size < 1 or batch_size % process_count:
    raise UserError(
      f'batch_size={batch_size} cannot be divided among {process_count}'
      f' processes; use a multiple of {process_count}.'
    )
  return batch_size // process_count


class _Mine:
  """Position in a process's own stream -> that example of the global one."""

  def __init__(self, numbered, start, batch_size, local, process_index):
    self.numbered = numbered
    self.first = start + process_index * local
    self.batch_size, self.local = batch_size, local

  def __call__(self, position: int) -> dict:
    step, slot = divmod(int(position), self.local)
    return self.numbered[self.first + step * self.batch_size + slot]


def _reading_plan(
  examples: grain.MapDataset,
  size: int,
  collate: Collate,
  *,
  num_workers: int,
  num_threads: int,
) -> grain.IterDataset:
  """Batches in order: threads share a batch, worker processes take turns."""
  batching = dict(drop_remainder=True, batch_fn=collate)
  if not num_workers:
    options = grain.ReadOptions(num_threads, 4 * num_threads)
    return examples.to_iter_dataset(options).batch(size, **batching)
  workers.allow_use_without_absl_app()
  return (
    examples.batch(size, **batching)
    .to_iter_dataset(grain.ReadOptions(0, 0))
    .mp_prefetch(
      grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=2),
      worker_init_fn=workers.start,
    )
  )
