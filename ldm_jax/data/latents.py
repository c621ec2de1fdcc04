"""Encoded datasets on disk: what the first stage made of each image, kept.

  folder/latents.json                              what they are of
         latents-00003-of-00012.array_record       one record per example

A record is a line of JSON with the example's labels and then float32 values
[versions h w channels]: the plain image, and its mirror image where training
flips. An example is where it is in the source, so a run reads the same order
with the cache and without; only the crop must be a fixed one.
"""

import json
import os
import socket

import numpy as np

from ldm_jax import whole
from ldm_jax.data import images, quarantine
from ldm_jax.data.examples import Read
from ldm_jax.data.spec import DataSpec
from ldm_jax.types import UserError

ABOUT = 'latents.json'
# Examples of a shard: what is lost where encoding is interrupted.
SHARD = 1024
# What of a DataSpec has no part in which image an index is.
_FREE = ('eval_split', 'num_workers', 'max_bad', 'flip')


class Versions:
  """Source index -> its labels and uint8 versions [versions size size 3].

  What training's transform would make of the image, before it draws.
  """

  def __init__(self, source, spec: DataSpec):
    self._read, self._spec = Read(source, spec), spec
    self._flips = (False, True) if spec.flip else (False,)

  def __call__(self, index: int) -> tuple[dict, np.ndarray]:
    example = self._read(index)
    crops = [
      images.crop(
        example,
        self._spec.size,
        flip=flip,
        resample=self._spec.resample,
        resize=self._spec.resize,
      )['image']
      for flip in self._flips
    ]
    labels = {
      key: value
      for key, value in example.items()
      if isinstance(value, (str, int, np.integer)) or _are_captions(value)
    }
    return labels, np.stack(crops)


def _are_captions(value) -> bool:
  several = isinstance(value, (list, tuple)) and len(value)
  return bool(several) and isinstance(value[0], str)


def check_crop(spec: DataSpec) -> None:
  """Raises UserError where no crop could be kept."""
  if spec.crop != 'center':
    raise UserError(
      f'data.crop={spec.crop!r} draws another crop each time, and latent_cache '
      "keeps one; set data.crop='center', or leave latent_cache unset."
    )


def describe(source, spec: DataSpec, first_stage: str, shape) -> dict:
  """What a cache is of; two that are equal hold the same latents.

  Args:
    source: the images.
    spec: how they become squares.
    first_stage: digest of the encoder and its weights.
    shape: of an example's record.
  """
  check_crop(spec)
  return {
    'first_stage': first_stage,
    'data': spec.told(_FREE),
    'examples': len(source),
    'shape': list(shape),
  }


def claim(folder: str, about: dict, write: bool = True) -> None:
  """Makes `folder` the cache of `about`; UserError where it is another's."""
  path = os.path.join(folder, ABOUT)
  if os.path.exists(path):
    with open(path, encoding='utf-8') as file:
      there = json.load(file)
    differ = [key for key in about if there.get(key) != about[key]]
    if differ:
      raise UserError(
        f'{folder} holds latents of something else: {", ".join(differ)} '
        f'differ ({there.get(differ[0])} there, {about[differ[0]]} here). Use '
        'another folder as latent_cache, or remove this one.'
      )
  elif write:
    os.makedirs(folder, exist_ok=True)
    with whole.written(path) as place:
      place.write_text(json.dumps(about, indent=1))


def shards(folder: str, examples: int) -> list[tuple[str, range]]:
  """(path, indices) of every shard of a cache."""
  count = -(-examples // SHARD)
  return [
    (
      os.path.join(folder, f'latents-{i:05}-of-{count:05}.array_record'),
      range(i * SHARD, min((i + 1) * SHARD, examples)),
    )
    for i in range(count)
  ]


def write_shard(path: str, rows) -> None:
  """Writes (labels, float32 [versions h w c]) rows; whole or not at all."""
  from array_record.python.array_record_module import ArrayRecordWriter

  # Of two runs that fill the same cache, the later shard takes the place.
  mine = f'{socket.gethostname()}.{os.getpid()}'
  with whole.written(path, mine) as place:
    writer = ArrayRecordWriter(str(place), 'group_size:1')
    for labels, values in rows:
      plain = {
        key: int(value) if isinstance(value, np.integer) else value
        for key, value in labels.items()
      }
      head = json.dumps(plain).encode()
      body = np.ascontiguousarray(values, '<f4').tobytes()
      writer.write(head + b'\n' + body)
    writer.close()


class Latents:
  """A cache as a source: examples have `latent` and no image."""

  def __init__(self, folder: str, about: dict):
    self.folder, self._about = folder, about
    self._paths = [path for path, _ in shards(folder, about['examples'])]
    self._records = None
    missing = [path for path in self._paths if not os.path.exists(path)]
    if missing:
      raise UserError(f'{missing[0]} is missing: {folder} is not complete.')

  def __getstate__(self):
    return {**self.__dict__, '_records': None}  # Each process opens its own.

  def __len__(self) -> int:
    return self._about['examples']

  def __repr__(self) -> str:
    return f'latents in {self.folder}'

  def __getitem__(self, index: int) -> dict:
    if self._records is None:
      from array_record.python.array_record_data_source import (
        ArrayRecordDataSource,
      )

      self._records = ArrayRecordDataSource(self._paths)
    (record,) = self._records.__getitems__([int(index)])
    head, _, body = record.partition(b'\n')
    example = json.loads(head)
    example.pop(quarantine.KEY, None)
    values = np.frombuffer(body, '<f4').reshape(self._about['shape'])
    return {**example, 'latent': values}
