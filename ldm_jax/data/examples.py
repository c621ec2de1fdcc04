"""One example's way: read, replaced if bad, cropped, prepared, batched.

Picklable callables; grain runs them in threads or worker processes.
"""

from collections.abc import Callable

import numpy as np

from ldm_jax.data import images, quarantine
from ldm_jax.data.spec import DataSpec
from ldm_jax.types import UserError

# A task's function of (example, generator). Its attribute `needs`, if it has
# one, names the labels without which it cannot work.
Prepare = Callable[[dict, np.random.Generator], dict]

# Padding of `boxes` where the source does not say how many it can hold; the
# paper's layouts have at most 30 objects.
MAX_BOXES = 30
NO_LABEL = -1


class Read:
  """Source index -> example; an image that cannot be used is replaced.

  The replacement is a pure function of the index, so no position moves. Adds
  `example_id`, the index that was read in the end.
  """

  def __init__(self, source, spec: DataSpec):
    self.source, self.spec = source, spec

  def name(self, index: int) -> str:
    """What a person would call the example: a path where there is one."""
    if hasattr(self.source, 'name'):
      return self.source.name(index)
    return f'{self.source!r}[{index}]'

  def one(self, index: int) -> dict:
    """The example at an index, or BadImage."""
    example = dict(self.source[index])
    if 'latent' in example:  # Of an image that was looked at before.
      example.setdefault('example_id', index)
      example['example_id'] = np.int64(example['example_id'])
      return example
    height, width = example['image'].shape[:2]
    if min(height, width) < self.spec.needed and not self.spec.upscale:
      name = 'size' if self.spec.needed == self.spec.size else 'resize'
      raise images.BadImage(
        f'{width}x{height} pixels are fewer than data.{name}='
        f'{self.spec.needed} asks for (data.upscale=True enlarges small images)'
      )
    example['example_id'] = np.int64(index)
    return example

  def __call__(self, index: int) -> dict:
    bad = []
    for candidate in quarantine.candidates(int(index), len(self.source)):
      try:
        example = self.one(candidate)
      except images.BadImage as e:
        bad.append((candidate, self.name(candidate), str(e)))
        continue
      example[quarantine.KEY] = bad
      return example
    _, name, reason = bad[-1]
    raise UserError(
      f'{len(bad)} images in a row cannot be used. The last: {name}: {reason}.'
    )


class Replacing:
  """A source of stored images in which bad ones are replaced, as in training.

  For those who would stop at one: what is held out is looked at for hours.
  Each is logged once; UserError where there are more than `spec.max_bad`.
  """

  def __init__(self, source, spec: DataSpec):
    self._source, self._read = source, Read(source, spec)
    self._watch = quarantine.Quarantine(len(source), spec.max_bad)

  def __len__(self) -> int:
    return len(self._source)

  def __repr__(self) -> str:
    return repr(self._source)

  def __getattr__(self, name: str):
    if name.startswith('_'):  # Nothing to ask yet while it is unpickled.
      raise AttributeError(name)
    return getattr(self._source, name)

  def __getitem__(self, index: int) -> dict:
    example = self._read(index)
    self._watch.observe(quarantine.pack([example.pop(quarantine.KEY)]), 1)
    return example


class Transform:
  """(example, generator) -> cropped, flipped, scaled, prepared example."""

  def __init__(self, prepare: Prepare, spec: DataSpec):
    self.prepare, self.spec = prepare, spec

  def __call__(self, example: dict, rng: np.random.Generator) -> dict:
    spec = self.spec
    # Always three draws, so that no option changes what `prepare` draws.
    y, x, mirror = rng.random(3)
    flip = spec.flip and mirror < 0.5
    # What the coin leaves of its number is uniform again. A child of `rng`
    # would not do: grain's generators have the same ones at every example.
    share = spec.min_crop + (1 - spec.min_crop) * (2 * mirror % 1)
    if 'latent' in example:  # ldm_jax/data/latents.py: both are there.
      example = dict(example)
      example['image'] = example.pop('latent')[int(flip)]
    else:
      example = images.crop(
        example,
        spec.size,
        place=(y, x) if spec.crop == 'random' else (0.5, 0.5),
        flip=flip,
        resample=spec.resample,
        resize=spec.resize,
        share=share,
      )
      example['image'] = images.to_float(example['image'])
    kept = {
      key: example.pop(key)
      for key in ('example_id', quarantine.KEY)
      if key in example
    }
    return {**self.prepare(example, rng), **kept}


class Collate:
  """A list of examples -> one dict of arrays, keys sorted.

  Strings are dropped unless `keep_text`; boxes are padded to as many as the
  source can hold (`max_objects`, or MAX_BOXES), their labels with NO_LABEL.
  """

  def __init__(self, source, keep_text: bool):
    self.max_boxes = getattr(source, 'max_objects', MAX_BOXES)
    self.keep_text = keep_text

  def __call__(self, examples: list[dict]) -> dict:
    batch = {}
    # Sorted: so does grain when a batch crosses processes.
    for key in sorted(examples[0]):
      try:
        values = [example[key] for example in examples]
      except KeyError as e:
        raise UserError(f'Some examples have {e} and others do not.') from e
      if key == quarantine.KEY:
        batch[key] = quarantine.pack(values)
      elif key in ('boxes', 'box_labels'):
        batch[key] = self._pad(key, values)
      elif not _is_text(values[0]):
        batch[key] = _stack(key, values)
      elif self.keep_text:
        batch[key] = np.empty(len(values), dtype=object)
        batch[key][:] = values
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


def _is_text(value) -> bool:
  """A string, or several (an image may have many captions)."""
  if isinstance(value, (list, tuple)) and value:
    value = value[0]
  return isinstance(value, str)


def _stack(key: str, values: list) -> np.ndarray:
  """Same shapes -> [B ...]; 64-bit numbers shrink to what JAX computes in."""
  arrays = [np.asarray(value) for value in values]
  shapes = {array.shape for array in arrays}
  if len(shapes) > 1:
    raise UserError(
      f'{key!r} has several shapes in one batch: {sorted(shapes)}. The'
      " task's prepare must give every example the same."
    )
  stacked = np.stack(arrays)
  if stacked.dtype == np.float64:
    return stacked.astype(np.float32)
  if stacked.dtype == np.int64 and key != 'example_id':
    return stacked.astype(np.int32)
  return stacked
