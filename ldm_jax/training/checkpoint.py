"""Checkpoints that are whole or not there, and the config beside them.

A checkpoint is a few named pytrees of arrays (items) and a JSON `meta`, so
that sampling can read one item and leave the rest:

  workdir/config.json
  workdir/checkpoints/<step>/arrays/<item>/   written by orbax
                             meta.json  manifest.json  COMMITTED

It is written to `<step>.partial`, its files read back and checksummed, marked
as committed, and only then renamed to `<step>`. A folder that fails
verification is renamed to `<step>.damaged`, never deleted.
"""

import contextlib
import json
import shutil
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from ldm_jax.training import items as items_lib
from ldm_jax.training import manifest, text_log
from ldm_jax.training.items import ARRAYS, META
from ldm_jax.training.workdir import read_config, write_config
from ldm_jax.types import UserError

__all__ = [
  'Checkpoints',
  'Damaged',
  'SaveError',
  'load_items',
  'load_step',
  'read_config',
  'write_config',
]

Items = Mapping[str, Any]
Damaged = manifest.Damaged

_BARRIER_MS = 20 * 60 * 1000


class SaveError(RuntimeError):
  """A save that failed in the background; older checkpoints are intact."""


class Checkpoints:
  """The checkpoints of one training run.

  Every process of the run calls every method, in the same order. As a context
  it closes at the end.
  """

  def __init__(
    self, workdir: epath.PathLike, keep: int = 3, keep_every: int = 0
  ):
    """Keeps the newest `keep`, and for good each multiple of `keep_every`."""
    if keep < 1:
      raise UserError(f'keep_checkpoints={keep} must be at least 1.')
    text_log.quiet_orbax()
    self._folder = epath.Path(workdir).absolute() / 'checkpoints'
    self._keep = keep
    self._keep_every = keep_every
    self._orbax = None
    self._thread = None
    self._error = None
    self._saves = 0
    self._verified = None

  def save(self, step: int, items: Items, meta: Mapping[str, Any]) -> bool:
    """Saves in the background; returns once the values are in host memory.

    So `items` may be donated to the next step. Waits for the save before it,
    and raises what went wrong there (SaveError). Returns False where this step
    is already saved. Raises UserError where the disk has no room.
    """
    self.wait()
    if _agree(step in self.steps()):
      return False
    named = {name: items_lib.named_leaves(tree) for name, tree in items.items()}
    meta_bytes = json.dumps(dict(meta), indent=1).encode()
    partial = self._folder / f'{step}.partial'
    self._saves += 1
    try:
      if jax.process_index() == 0:
        self._clean()
      self._check_space(named)
      if jax.process_index() == 0:
        partial.mkdir(parents=True)
        (partial / META).write_bytes(meta_bytes)
      at_point('before_arrays')
      self._start(partial, named)
      parts = {
        f'{name}/{path}': (leaf, items_lib.host_shards(leaf))
        for name, leaves in named.items()
        for path, leaf in leaves.items()
      }
    except UserError:
      raise
    except Exception as error:
      self._abandon(partial)
      raise self._failure(step, error) from error
    # Only shapes and host values go along, so that the device's can be freed.
    parts = {
      key: (jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shards)
      for key, (leaf, shards) in parts.items()
    }
    self._thread = threading.Thread(
      target=self._finish,
      args=(step, partial, sorted(named), parts, self._saves),
      name=f'save-{step}',
    )
    self._thread.start()
    return True

  def check(self) -> None:
    """Raises what went wrong in the background, without waiting for it."""
    if self._thread is not None and not self._thread.is_alive():
      self.wait()

  def wait(self) -> None:
    """Waits for the running save and raises SaveError if it failed."""
    if self._thread is not None:
      self._thread.join()
      self._thread = None
    if self._error is not None:
      step, error = self._error
      self._error = None
      raise self._failure(step, error) from error

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind, error, trace) -> None:
    """Closes; a save that is under way is finished whatever has happened.

    Left to itself when the program ends, it would find that Python starts no
    more threads.
    """
    try:
      self.close()
    except SaveError as failure:
      if error is None:
        raise
      logging.error('%s', failure)  # `error` says why the program ends.

  def close(self) -> None:
    """Waits, then lets go of orbax's threads."""
    try:
      self.wait()
    finally:
      if self._orbax is not None:
        self._orbax.close()
        self._orbax = None

  def steps(self) -> list[int]:
    """Committed steps, ascending; not verified."""
    return _committed(self._folder)

  def latest(self) -> int | None:
    """The newest valid step, or None. Sets damaged ones aside, loudly.

    Waits for a running save.
    """
    self.wait()
    step = -1
    if jax.process_index() == 0:
      for step in reversed(self.steps()):
        if self._verify(step):
          break
      else:
        step = -1
    step = _agree(step)
    return None if step < 0 else step

  def restore(
    self, step: int, abstract_items: Items, optional: Sequence[str] = ()
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """(items, meta) of a step, placed as the abstract leaves' shardings say.

    `abstract_items` may name some items only; its leaves are arrays or
    ShapeDtypeStructs, and those without a sharding go to the first device. What
    lies below `optional` ('train/watch/') is None where the step has it not.
    Raises UserError where shapes or names do not fit (another model), and
    Damaged where the bytes are not those that were saved: then the folder has
    been set aside, and `latest()` is an older step.
    """
    folder = self._folder / str(step)
    if not _agree(step in self.steps()):
      raise UserError(
        f'{self._folder} has no checkpoint of step {step}; it has '
        f'{self.steps() or "none"}.'
      )
    intact = jax.process_index() == 0 and (
      self._verified == step or self._verify(step)
    )
    self._verified = None  # What latest() found is good for one restore.
    if not _agree(intact):
      raise Damaged(f'Checkpoint {step} is damaged.')
    try:
      content = manifest.read(folder)
      return items_lib.restore(folder, content, abstract_items, optional)
    except Damaged as error:
      if jax.process_index() == 0:
        self._set_aside(step, error)
      _agree(0)  # Nobody looks again before the folder is renamed.
      raise

  def restore_latest(
    self, abstract_items: Items, optional: Sequence[str] = ()
  ) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
    """(step, items, meta) of the newest step that restores, or None."""
    while (step := self.latest()) is not None:
      try:
        return step, *self.restore(step, abstract_items, optional)
      except Damaged:
        continue
    return None

  def _start(self, partial, named):
    """Copies to the host; orbax writes the arrays from its own threads."""
    if self._orbax is None:
      self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
    items_lib.prefetch(named)
    args = {
      name: ocp.args.StandardSave(
        items_lib.nested(jax.tree.map(items_lib.without_copies, stored))
      )
      for name, leaves in named.items()
      if (stored := items_lib.stored(leaves))
    }
    self._orbax.save(partial / ARRAYS, args=ocp.args.Composite(**args))

  def _finish(self, step, partial, names, parts, count):
    """The background half of a save."""
    barrier = ocp.multihost.get_barrier_sync_fn()

    def meet(phase):
      barrier(key=f'ldm_{phase}_{count}_{step}', timeout_ms=_BARRIER_MS)

    try:
      arrays = {
        key: items_lib.describe(leaf, shards)
        for key, (leaf, shards) in parts.items()
      }
      parts.clear()
      at_point('while_writing')
      self._orbax.wait_until_finished()
      at_point('arrays_written')
      meet('written')
      self._commit(step, partial, names, arrays, meet)
    except BaseException as error:
      self._abandon(partial)
      self._error = (step, error)

  def _abandon(self, partial):
    """Gives the space of a failed save back, once orbax has let go of it."""
    with contextlib.suppress(Exception):
      self._orbax.wait_until_finished()
    if jax.process_index() == 0:
      shutil.rmtree(partial, ignore_errors=True)

  def _commit(self, step, partial, names, arrays, meet):
    """Checksums, marker, rename, retention."""
    process, processes = jax.process_index(), jax.process_count()
    files = manifest.list_files(partial)[process::processes]
    part = {'arrays': arrays, 'files': manifest.file_sums(partial, files)}
    if processes > 1:
      meet('listed')
      (partial / f'part_{process}.json').write_text(json.dumps(part))
      meet('summed')
      if process == 0:
        part = items_lib.merge_parts(partial, processes)
    if process == 0:
      at_point('before_commit')
      manifest.write(partial, {'step': step, 'items': names, **part})
      at_point('committed')
      partial.rename(self._folder / str(step))
      at_point('renamed')
      self._retain()
    meet('done')

  def _retain(self):
    """Removes old steps; the newest was verified a moment ago."""
    at_point('before_retention')
    for step in self.steps()[: -self._keep]:
      if self._keep_every and step % self._keep_every == 0:
        continue
      # Renamed first: a kill while deleting leaves no half folder behind.
      trash = self._folder / f'{step}.trash'
      (self._folder / str(step)).rename(trash)
      at_point('while_removing')
      trash.rmtree()

  def _clean(self):
    """Removes what killed saves and removals of this run left behind."""
    if not self._folder.exists():
      return
    for path in self._folder.iterdir():
      stem, _, ending = path.name.partition('.')
      if stem.isdigit() and ending in ('partial', 'trash'):
        path.rmtree()

  def _verify(self, step: int) -> bool:
    """Whether a step's files are intact; sets it aside where they are not."""
    folder = self._folder / str(step)
    try:
      manifest.verify_files(folder, manifest.read(folder))
    except Damaged as error:
      self._set_aside(step, error)
      return False
    self._verified = step
    return True

  def _failure(self, step: int, error: BaseException) -> SaveError:
    return SaveError(
      f'Saving step {step} failed: {error}. The checkpoints that are in '
      f'{self._folder} are intact.'
    )

  def _set_aside(self, step: int, why: object):
    path = self._folder / str(step)
    if not path.exists():
      return
    target = self._folder / f'{step}.damaged'
    number = 1
    while target.exists():
      number += 1
      target = self._folder / f'{step}.damaged-{number}'
    path.rename(target)
    logging.warning(
      'Checkpoint %d is damaged (%s). It is kept as %s and not used.',
      step,
      why,
      target,
    )

  def _check_space(self, named: Mapping[str, Mapping[str, Any]]):
    needed = 2**20 + sum(
      leaf.nbytes for leaves in named.values() for leaf in leaves.values()
    )
    free = free_bytes(self._folder)
    if not _agree(free >= needed):
      raise UserError(
        f'No room for a checkpoint in {self._folder}: it needs {needed:,} '
        f'bytes and {free:,} are available. Free some space or lower '
        'keep_checkpoints; the checkpoints that are there are intact.'
      )


def at_point(name: str) -> None:
  """Called at named points of a save; tests replace it to die there."""


def free_bytes(folder: epath.PathLike) -> int:
  """Bytes available where `folder` is or will be."""
  path = epath.Path(folder)
  while not path.exists():
    path = path.parent
  return shutil.disk_usage(path).free


def load_items(*args, **kwargs) -> tuple[dict[str, Any], dict[str, Any]]:
  """(items, meta) of `load_step`, whichever step it was."""
  return load_step(*args, **kwargs)[1:]


def load_step(
  workdir: epath.PathLike,
  names: Sequence[str] | None,
  step: int | None = None,
  abstract_items: Items | None = None,
) -> tuple[int, dict[str, Any], dict[str, Any]]:
  """(step, {name: nested dict of arrays on the first device}, meta) of a run.

  `names=None` loads every item, and no `step` the newest valid one. Reads only:
  damaged checkpoints are passed over with a warning. With `abstract_items` of
  those names, trees and places are theirs. Raises UserError where there is no
  such checkpoint or item, and Damaged where `step` was named and is damaged.
  """
  folder = epath.Path(workdir).absolute() / 'checkpoints'
  steps = _committed(folder)
  if step is not None and step not in steps:
    raise UserError(
      f'{folder} has no checkpoint of step {step}; it has {steps or "none"}.'
    )
  for candidate in reversed(steps) if step is None else [step]:
    path = folder / str(candidate)
    try:
      content = manifest.read(path)
      wanted = items_lib.pick(path, content, names)
      below = [META, f'{ARRAYS}/_', *(f'{ARRAYS}/{name}/' for name in wanted)]
      manifest.verify_files(path, content, below)
      abstract = abstract_items or items_lib.abstract(content, wanted)
      return candidate, *items_lib.restore(path, content, abstract)
    except Damaged as error:
      if step is not None:
        raise Damaged(
          f'Checkpoint {step} is damaged ({error}). {folder} has {steps}.'
        ) from error
      logging.warning('Checkpoint %d is damaged (%s).', candidate, error)
  raise UserError(
    f'{folder} has no valid checkpoint. Is {workdir} the workdir of a run?'
  )


def _agree(value: int) -> int:
  """Process 0's value, in every process."""
  if jax.process_count() == 1:
    return int(value)
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _committed(folder: epath.Path) -> list[int]:
  if not folder.exists():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
