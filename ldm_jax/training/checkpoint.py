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

import json
import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from ldm_jax.training import manifest
from ldm_jax.types import UserError

Items = Mapping[str, Any]
Damaged = manifest.Damaged

ARRAYS = 'arrays'
META = 'meta.json'
_BARRIER_MS = 20 * 60 * 1000


class SaveError(RuntimeError):
  """A save that failed in the background; older checkpoints are intact."""


class Checkpoints:
  """The checkpoints of one training run.

  Every process of the run calls every method, in the same order.
  """

  def __init__(
    self, workdir: epath.PathLike, keep: int = 3, keep_every: int = 0
  ):
    """Keeps the newest `keep`, and for good each multiple of `keep_every`."""
    if keep < 1:
      raise UserError(f'keep_checkpoints={keep} must be at least 1.')
    self._folder = epath.Path(workdir).absolute() / 'checkpoints'
    self._keep = keep
    self._keep_every = keep_every
    self._orbax = None
    self._thread = None
    self._error = None
    self._saves = 0

  def save(self, step: int, items: Items, meta: Mapping[str, Any]) -> bool:
    """Saves in the background; returns once the values are in host memory.

    So `items` may be donated to the next step. Waits for the save before it,
    and raises what went wrong there (SaveError). Returns False where this step
    is already saved. Raises UserError where the disk has no room.
    """
    self.wait()
    final = self._folder / str(step)
    if _agree(step in _committed(self._folder)):
      return False
    named = {name: _named_leaves(tree) for name, tree in items.items()}
    meta_bytes = json.dumps(dict(meta), indent=1, sort_keys=True).encode()
    partial = self._folder / f'{step}.partial'
    self._check_space(named)
    if jax.process_index() == 0:
      self._clean()
      partial.mkdir(parents=True)
      (partial / META).write_bytes(meta_bytes)
    if self._orbax is None:
      self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
    at_point('before_arrays')
    self._orbax.save(
      partial / ARRAYS,
      args=ocp.args.Composite(
        **{
          name: ocp.args.StandardSave(_nested(leaves))
          for name, leaves in named.items()
        }
      ),
    )
    shards = {
      f'{name}/{path}': _host_shards(leaf)
      for name, leaves in named.items()
      for path, leaf in leaves.items()
    }
    self._saves += 1
    self._thread = threading.Thread(
      target=self._finish,
      args=(step, partial, final, shards, self._saves),
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
      raise SaveError(
        f'Saving step {step} failed: {error}. Older checkpoints in '
        f'{self._folder} are intact.'
      ) from error

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
    """The newest valid step, or None. Sets damaged ones aside, loudly."""
    step = -1
    if jax.process_index() == 0:
      for step in reversed(self.steps()):
        try:
          folder = self._folder / str(step)
          manifest.verify_files(folder, manifest.read(folder))
          break
        except Damaged as error:
          self._set_aside(step, error)
      else:
        step = -1
    step = _agree(step)
    return None if step < 0 else step

  def restore(
    self, step: int, abstract_items: Items
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """(items, meta) of a step, placed as the abstract leaves' shardings say.

    `abstract_items` may name some items only; its leaves are arrays or
    ShapeDtypeStructs, and those without a sharding go to the first device.
    Raises UserError where shapes or names do not fit (another model), and
    Damaged where the values are not those that were saved.
    """
    folder = self._folder / str(step)
    content = manifest.read(folder)
    return _restore(folder, content, abstract_items)

  def restore_latest(
    self, abstract_items: Items
  ) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
    """(step, items, meta) of the newest step that restores, or None."""
    while (step := self.latest()) is not None:
      try:
        return step, *self.restore(step, abstract_items)
      except Damaged as error:
        if jax.process_index() == 0:
          self._set_aside(step, error)
        _agree(0)  # Nobody looks again before the folder is renamed.
    return None

  def _finish(self, step, partial, final, shards, count):
    """The background half of a save."""
    barrier = ocp.multihost.get_barrier_sync_fn()

    def meet(phase):
      barrier(key=f'ldm_{phase}_{count}_{step}', timeout_ms=_BARRIER_MS)

    try:
      arrays = {
        name: {
          'shape': list(shape),
          'dtype': str(dtype),
          'sums': manifest.add_sums(
            [manifest.array_sums(data, index, shape) for data, index in parts]
          ),
        }
        for name, (shape, dtype, parts) in shards.items()
      }
      at_point('while_writing')
      self._orbax.wait_until_finished()
      at_point('arrays_written')
      meet('written')
      self._commit(step, partial, final, arrays, meet)
    except BaseException as error:
      logging.exception('Saving step %d failed.', step)
      self._error = (step, error)
      if jax.process_index() == 0:
        partial.rmtree(missing_ok=True)

  def _commit(self, step, partial, final, arrays, meet):
    """Checksums, marker, rename, retention."""
    process, processes = jax.process_index(), jax.process_count()
    names = manifest.list_files(partial)
    part = {
      'arrays': arrays,
      'files': manifest.file_sums(partial, names[process::processes]),
    }
    if processes > 1:
      meet('listed')
      (partial / f'part_{process}.json').write_text(json.dumps(part))
      meet('summed')
      if process == 0:
        part = _merge_parts(partial, processes)
    if process == 0:
      at_point('before_commit')
      manifest.write(partial, {'step': step, **part})
      at_point('committed')
      if final.exists():  # Committed folders were looked for before saving.
        self._set_aside(step, 'it was not committed')
      partial.rename(final)
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
    if not _agree(free is None or free >= needed):
      raise UserError(
        f'No room for a checkpoint in {self._folder}: it needs '
        f'{needed:,} bytes and {free:,} are available. Free some space or '
        'lower keep_checkpoints; the checkpoints that are there are intact.'
      )


def at_point(name: str) -> None:
  """Called at named points of a save; tests replace it to die there."""


def free_bytes(folder: epath.PathLike) -> int | None:
  """Bytes available where `folder` is or will be; None for remote storage."""
  path = epath.Path(folder)
  if '://' in str(path):
    return None
  while not path.exists():
    path = path.parent
  return shutil.disk_usage(path).free


def load_items(
  workdir: epath.PathLike, names: Sequence[str] | None, step: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
  """({name: nested dict of arrays on the first device}, meta) of a run.

  `names=None` loads every item, and no `step` the newest valid one. Reads only:
  damaged checkpoints are passed over with a warning. Raises UserError where
  there is no such checkpoint or item, and Damaged where `step` was named and
  is damaged.
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
      wanted = _pick_items(path, content, names)
      below = [META, f'{ARRAYS}/_', *(f'{ARRAYS}/{name}/' for name in wanted)]
      manifest.verify_files(path, content, below)
      return _restore(path, content, _abstract_items(content, wanted))
    except Damaged as error:
      if step is not None:
        raise
      logging.warning('Checkpoint %d is damaged (%s).', candidate, error)
  raise UserError(
    f'{folder} has no valid checkpoint. Is {workdir} the workdir of a run?'
  )


def write_config(workdir: epath.PathLike, config: Mapping[str, Any]) -> None:
  """Writes config.json in one piece, on process 0."""
  if jax.process_index() != 0:
    return
  path = epath.Path(workdir) / 'config.json'
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name('config.json.partial')
  partial.write_text(json.dumps(config, indent=2) + '\n')
  partial.replace(path)


def read_config(workdir: epath.PathLike) -> dict[str, Any]:
  """The resolved config of a run; sequences come back as tuples."""
  path = epath.Path(workdir) / 'config.json'
  try:
    return _tuples(json.loads(path.read_text()))
  except FileNotFoundError as error:
    raise UserError(
      f'{path} does not exist. Is {workdir} the workdir of a run?'
    ) from error
  except ValueError as error:
    raise UserError(f'{path} is not valid JSON: {error}') from error


def check_same_model(
  workdir: epath.PathLike,
  config: Mapping[str, Any],
  sections: Sequence[str] = ('stage', 'first_stage', 'task', 'unet'),
) -> None:
  """Raises UserError, naming every key of `sections` that differs.

  A workdir without a config.json agrees with everything.
  """
  if not (epath.Path(workdir) / 'config.json').exists():
    return
  there = read_config(workdir)
  here = _tuples(json.loads(json.dumps(config)))
  old, new = (
    dict(_flat({key: c[key] for key in sections if key in c}))
    for c in (there, here)
  )
  missing = object()
  lines = [
    f'  {key}: {_shown(old, key)} there, {_shown(new, key)} here'
    for key in sorted(old.keys() | new.keys())
    if old.get(key, missing) != new.get(key, missing)
  ]
  if lines:
    raise UserError(
      '\n'.join(
        [
          f'{workdir} holds another model. Use a new workdir, or the config '
          'of this one. What differs:',
          *lines,
        ]
      )
    )


def _restore(folder, content, abstract_items):
  named = {
    name: _named_leaves(tree, abstract=True)
    for name, tree in abstract_items.items()
  }
  _check_fit(folder, content, named)
  handler = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
  try:
    restored = handler.restore(
      folder / ARRAYS,
      args=ocp.args.Composite(
        **{
          name: ocp.args.StandardRestore(_nested(leaves))
          for name, leaves in named.items()
        }
      ),
    )
  finally:
    handler.close()
  items, sums = {}, {}
  for name, tree in abstract_items.items():
    leaves = _named_leaves(restored[name]) if named[name] else {}
    for path, leaf in leaves.items():
      shape, _, parts = _host_shards(leaf)
      sums[f'{name}/{path}'] = manifest.add_sums(
        [manifest.array_sums(data, index, shape) for data, index in parts]
      )
    # In the order of the abstract tree, which need not be the nested dict's.
    items[name] = jax.tree.unflatten(
      jax.tree.structure(tree), [leaves[path] for path in named[name]]
    )
  manifest.verify_arrays(content, _over_processes(sums))
  return items, json.loads((folder / META).read_text())


def _check_fit(folder, content, named):
  """Raises UserError unless the wanted leaves are the saved ones."""
  _pick_items(folder, content, list(named))
  wanted = {
    f'{name}/{path}': (tuple(leaf.shape), str(leaf.dtype))
    for name, leaves in named.items()
    for path, leaf in leaves.items()
  }
  saved = {
    key: (tuple(value['shape']), value['dtype'])
    for key, value in content['arrays'].items()
    if key.split('/')[0] in named
  }
  wrong = [
    f'{key}: {_shown(saved, key)} saved, {_shown(wanted, key)} wanted'
    for key in sorted(saved.keys() | wanted.keys())
    if saved.get(key) != wanted.get(key)
  ]
  if wrong:
    more = f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''
    raise UserError(
      f'{folder} does not fit this model or optimizer: '
      f'{"; ".join(wrong[:3])}{more}.'
    )


def _pick_items(folder, content, names):
  there = sorted({key.split('/')[0] for key in content['arrays']})
  missing = [name for name in names or () if name not in there]
  if missing:
    raise UserError(f'{folder} holds {there}, and not {missing}.')
  return there if names is None else list(names)


def _abstract_items(content, names):
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  leaves = {name: {} for name in names}
  for key, value in content['arrays'].items():
    name, path = key.split('/', 1)
    if name in leaves:
      leaves[name][path] = jax.ShapeDtypeStruct(
        value['shape'], value['dtype'], sharding=device
      )
  return {name: _nested(paths) for name, paths in leaves.items()}


def _named_leaves(tree: Any, abstract: bool = False) -> dict[str, Any]:
  """{'conv_in/kernel': leaf}, in tree order."""
  leaves = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if abstract:
      leaf = jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=getattr(leaf, 'sharding', None)
      )
    elif not isinstance(leaf, jax.Array):
      leaf = np.asarray(leaf)
    leaves[jax.tree_util.keystr(path, simple=True, separator='/')] = leaf
  return leaves


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Nested dicts of what _named_leaves gave: the form that is on disk."""
  root = {}
  for path, leaf in leaves.items():
    *parents, last = path.split('/')
    node = root
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = leaf
  return root


def _host_shards(leaf):
  """(shape, dtype, [(host values, index)]) of what this process answers for.

  Copies of a shard on other devices are left out.
  """
  if isinstance(leaf, jax.Array):
    parts = [
      (np.asarray(shard.data), shard.index)
      for shard in leaf.addressable_shards
      if shard.replica_id == 0
    ]
  elif jax.process_index() == 0:
    parts = [(np.array(leaf), (slice(0),) * np.ndim(leaf))]
  else:
    parts = []
  return leaf.shape, leaf.dtype, parts


def _merge_parts(partial: epath.Path, processes: int) -> dict[str, Any]:
  """One manifest of what every process summed up."""
  merged = None
  for process in range(processes):
    path = partial / f'part_{process}.json'
    part = json.loads(path.read_text())
    path.unlink()
    if merged is None:
      merged = part
      continue
    merged['files'].update(part['files'])
    for name, value in part['arrays'].items():
      mine = merged['arrays'][name]
      mine['sums'] = manifest.add_sums([mine['sums'], value['sums']])
  return merged


def _over_processes(
  sums: Mapping[str, tuple[int, int]],
) -> dict[str, tuple[int, int]]:
  if jax.process_count() == 1 or not sums:
    return dict(sums)
  # uint32 halves, because JAX would cut uint64 down to them.
  local = np.array(list(sums.values()), np.uint64).view(np.uint32)
  parts = np.asarray(multihost_utils.process_allgather(local))
  parts = np.ascontiguousarray(parts, np.uint32).view(np.uint64)
  return dict(zip(sums, map(manifest.add_sums, parts.swapaxes(0, 1))))


def _agree(value: int) -> int:
  """Process 0's value, in every process."""
  if jax.process_count() == 1:
    return int(value)
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _committed(folder: epath.Path) -> list[int]:
  if not folder.exists():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def _flat(config: Any, prefix: str = '') -> Iterable[tuple[str, Any]]:
  for key, value in config.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _tuples(item) for key, item in value.items()}
  if isinstance(value, list):
    return tuple(_tuples(item) for item in value)
  return value


def _shown(table: Mapping[str, Any], key: str) -> str:
  return repr(table[key]) if key in table else 'nothing'
