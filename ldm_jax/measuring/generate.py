"""Many images of a run, for its evaluation: drawn into shards on disk."""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ldm_jax.data import given
from ldm_jax.diffusion.settings import Settings
from ldm_jax.evaluation.features import Pace
from ldm_jax.evaluation.shards import Shards
from ldm_jax.pipeline import LatentDiffusionPipeline
from ldm_jax.splits import open_split
from ldm_jax.training import processes
from ldm_jax.types import UserError

BALANCED = 'balanced'  # Classes in turn, in place of a split's labels.


class Conditions:
  """What image k is drawn from, for any k: a split's examples, in turn.

  Attributes:
    split: whose they are; '' where there are none.
    seed: of what a split's conditions are drawn with, and of the images.
    masks: the setting that masks are drawn by; '' is the run's own.
  """

  def __init__(
    self,
    ldm: LatentDiffusionPipeline,
    split: str,
    seed: int,
    masks: str = '',
  ):
    self._ldm, self.seed, self.masks = ldm, seed, masks
    self._prepare = _with_masks(ldm, masks) if masks else ldm.parts.prepare
    blank = ldm.parts.prepare.blank(ldm.parts.data.size)
    balanced = set(blank) == {'label'}
    self.split = split or (BALANCED if balanced else ldm.parts.data.eval_split)
    if not blank:
      self.split = ''
    if self.split == BALANCED and not balanced:
      raise UserError(
        f'--inputs={BALANCED} is for class-conditional runs; name a split of '
        'the data.'
      )

  @functools.cached_property
  def _source(self):
    return open_split(self._ldm.parts.data, self.split, '--inputs')

  def of(
    self, first: int, num: int
  ) -> tuple[dict[str, list], dict[str, np.ndarray]]:
    """(what to tell of images `first` and on, the arrays of the task)."""
    if not self.split:
      return {}, {}
    if self.split == BALANCED:
      classes = self._ldm.parts.prepare.num_labels
      labels = (first + np.arange(num)) % classes
      return {'label': labels.tolist()}, {'label': labels.astype(np.int32)}
    parts = self._ldm.parts
    return given.conditions(
      self._source, self._prepare, parts.data, num, self.seed, first
    )


def _with_masks(ldm: LatentDiffusionPipeline, masks: str):
  """The run's Prepare, drawing masks by another setting."""
  parts = ldm.parts
  if not hasattr(parts.prepare, 'masks'):
    task = parts.config.task.get('name', 'none, of a first stage')
    raise UserError(
      f'--masks={masks} is for runs that inpaint; the task of this one is '
      f'{task}.'
    )
  if parts.data.source == 'masks':
    raise UserError(
      f"--masks={masks}: the run's data (data.source='masks') has a mask for "
      'each image, and none is drawn; leave --masks out.'
    )
  return dataclasses.replace(parts.prepare, masks=masks)


def weights_digest(ldm: LatentDiffusionPipeline) -> str:
  """Of all parameters: images of other weights must not be mixed."""
  found = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(dict(ldm.params)):
    found.update(jax.tree_util.keystr(path).encode())
    found.update(np.ascontiguousarray(leaf).tobytes())
  return found.hexdigest()[:16]


def batch(
  ldm: LatentDiffusionPipeline,
  settings: Settings,
  conditions: Conditions,
  first: int,
  num: int,
) -> Iterator[np.ndarray]:
  """Images `first` and on, as one batch, checked now and drawn when asked for.

  Raises:
    UserError: settings or conditions of which nothing can be drawn.
  """
  return ldm.sample_batches(
    num,
    first=first,
    batch_size=num,
    seed=conditions.seed,
    **dataclasses.asdict(settings),
    **conditions.of(first, num)[1],
  )


def draw(
  ldm: LatentDiffusionPipeline,
  folder: str,
  num: int,
  settings: Settings,
  conditions: Conditions,
  batch_size: int,
  say=print,
) -> tuple[Shards, dict[str, Any]]:
  """Images 0 to num - 1 of a run, those that are not there yet.

  Each process draws its share of the shards. Image k depends on the settings,
  the weights, its conditions and k; a shard is one batch, so that a run that
  was killed draws the rest by the same program, and so the same bits.

  Returns:
    the shards, and as Pace.about how many images were drawn, and how fast: of
    the batches after the first, which compiles, None where there are none.
  """
  batch(ldm, settings, conditions, 0, 1)  # Before a folder is begun.
  about = {
    **settings.about(),
    'seed': conditions.seed,
    'inputs': conditions.split,
    'size': ldm.parts.data.size,
    'weights': weights_digest(ldm),
    **({'masks': conditions.masks} if conditions.masks else {}),
  }
  create = functools.partial(Shards.create, folder, num, batch_size, about)
  shards = processes.by_first(create) or create(write=False)
  missing = list(shards.missing(jax.process_index(), jax.process_count()))
  if missing and len(missing) * batch_size < num:
    say(f'{folder}: going on; {len(missing)} of its shards are missing.')
  begin, pace = time.monotonic(), Pace()
  for done, first in enumerate(missing, 1):
    start = time.monotonic()
    coming = batch(ldm, settings, conditions, first, batch_size)
    prepared = time.monotonic()
    images = np.concatenate(list(coming))
    drawn = time.monotonic()
    shards.write(first, images)
    if done > 1:
      pace.images += batch_size
      pace.in_network += drawn - prepared
      pace.seconds += time.monotonic() - start
    rate = done * batch_size / (time.monotonic() - begin)
    left = (len(missing) - done) * batch_size / rate
    say(f'{done}/{len(missing)} shards, {rate:.2f} images/s, {left:.0f}s left')
  rates = pace.about() if pace.images else dict.fromkeys(pace.about())
  return shards, {**rates, 'images': len(missing) * batch_size}
