"""Items of a checkpoint: pytrees of arrays as nested dicts on disk.

A leaf's name is its path, 'conv_in/kernel' or 'opt_state/1/0/mu/bias', so
tuples, optax's named tuples and flax structs are all read back by anyone as
nested dicts, and need no class to be importable.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax.training import manifest
from ldm_jax.types import UserError

ARRAYS = 'arrays'
META = 'meta.json'


def named_leaves(tree: Any) -> dict[str, Any]:
  """{'conv_in/kernel': leaf}, in tree order; what is no array becomes one."""
  leaves = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if name in leaves:
      raise ValueError(f'Two leaves are called {name}.')
    if not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
      # A Python int is an int32 to JAX, and int64 to NumPy.
      leaf = np.asarray(leaf)
      leaf = leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype))
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      raise TypeError(f'{name} is a typed key: save jax.random.key_data of it.')
    leaves[name] = leaf
  return leaves


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Nested dicts of what named_leaves gave: the form that is on disk."""
  root = {}
  for path, leaf in leaves.items():
    *parents, last = path.split('/')
    node = root
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = leaf
  return root


def stored(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Those that have elements: orbax refuses the others."""
  return {name: leaf for name, leaf in leaves.items() if leaf.size}


def host_shards(leaf: Any) -> list[tuple[np.ndarray, tuple[slice, ...]]]:
  """(values, index) of the parts that this process answers for.

  Every element is answered for once: by its first replica. The values are
  safe from a donation that follows: on accelerators they are copies, and on a
  CPU XLA copies a donated buffer that is still looked at from outside.
  """
  # What every process has for itself is the first one's to answer for.
  shared = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
  if not shared and jax.process_index() != 0:
    return []
  if isinstance(leaf, jax.Array):
    return [
      (np.asarray(shard.data), shard.index)
      for shard in leaf.addressable_shards
      if shard.replica_id == 0
    ]
  return [(np.array(leaf), (slice(0, None),) * np.ndim(leaf))]


def without_copies(leaf: Any) -> Any:
  """The same array on the devices of its first copies alone.

  Of copies orbax writes a slice of each, and compiles a program for each slice:
  hundreds of them, while training waits. Arrays that other processes hold parts
  of stay as they are: there the slices share the writing.
  """
  if not isinstance(leaf, jax.Array) or not leaf.is_fully_addressable:
    return leaf
  shards = leaf.addressable_shards
  first = [shard.data for shard in shards if shard.replica_id == 0]
  if len(first) == 1:
    return first[0]
  if len(first) == len(shards) or not isinstance(leaf.sharding, NamedSharding):
    return leaf
  mesh, spec = leaf.sharding.mesh, leaf.sharding.spec
  names = jax.tree.leaves(tuple(spec))
  split = [name for name in mesh.axis_names if name in names]
  at = tuple(slice(None) if n in split else 0 for n in mesh.axis_names)
  return jax.make_array_from_single_device_arrays(
    leaf.shape, NamedSharding(Mesh(mesh.devices[at], split), spec), first
  )


def prefetch(named: Mapping[str, Mapping[str, Any]]) -> None:
  """Starts all the copies that host_shards will wait for, one by one."""
  for leaves in named.values():
    for leaf in leaves.values():
      if isinstance(leaf, jax.Array):
        for shard in leaf.addressable_shards:
          if shard.replica_id == 0:
            shard.data.copy_to_host_async()


def describe(
  leaf: Any, parts: Sequence[tuple[np.ndarray, tuple[slice, ...]]]
) -> dict[str, Any]:
  """A leaf's line in the manifest, its sums over `parts` only."""
  sums = [manifest.array_sums(data, index, leaf.shape) for data, index in parts]
  return {
    'shape': list(leaf.shape),
    'dtype': str(leaf.dtype),
    'sums': manifest.add_sums(sums),
  }


def merge_parts(partial: epath.Path, processes: int) -> dict[str, Any]:
  """One manifest of the part_<process>.json files, which it removes."""
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


def pick(
  folder: epath.Path,
  content: Mapping[str, Any],
  names: Sequence[str] | None,
) -> list[str]:
  """`names`, or all that are there; UserError where one is not."""
  there = content['items']
  missing = [name for name in names or () if name not in there]
  if missing:
    raise UserError(f'{folder} holds {there}, and not {missing}.')
  return list(there if names is None else names)


def abstract(
  content: Mapping[str, Any], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
  """{item: nested dict of ShapeDtypeStructs on the first device here}."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  leaves = {name: {} for name in names}
  for key, value in content['arrays'].items():
    name, path = key.split('/', 1)
    if name in leaves:
      leaves[name][path] = jax.ShapeDtypeStruct(
        value['shape'], value['dtype'], sharding=device
      )
  return {name: nested(paths) for name, paths in leaves.items()}


def restore(
  folder: epath.Path,
  content: Mapping[str, Any],
  abstract_items: Mapping[str, Any],
  optional: Sequence[str] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
  """(items, meta), placed as the abstract leaves say, and verified.

  Leaves below `optional`, beginnings of 'item/path', need not be those that
  were saved: None stands for what is not there.

  Raises UserError where the items are not those that were saved, and
  manifest.Damaged where their values are not.
  """
  named = {
    name: {path: _placed(leaf) for path, leaf in named_leaves(tree).items()}
    for name, tree in abstract_items.items()
  }
  asked = {name: list(leaves) for name, leaves in named.items()}
  named = _as_there(content, named, tuple(optional))
  _check_fit(folder, content, named)
  wanted = {
    name: ocp.args.StandardRestore(nested(stored(leaves)))
    for name, leaves in named.items()
    if stored(leaves)
  }
  restored = {}
  if wanted:
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
      restored = reader.restore(
        folder / ARRAYS, args=ocp.args.Composite(**wanted)
      )
  items, sums = {}, {}
  for name, tree in abstract_items.items():
    leaves = {
      path: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)
      for path, leaf in named[name].items()
      if not leaf.size
    }
    if name in wanted:
      leaves |= named_leaves(restored[name])
    for path, leaf in leaves.items():
      sums[f'{name}/{path}'] = describe(leaf, host_shards(leaf))['sums']
    # By name: the abstract tree's order need not be the nested dict's.
    items[name] = jax.tree.unflatten(
      jax.tree.structure(tree), [leaves.get(path) for path in asked[name]]
    )
  manifest.verify_arrays(content, _over_processes(sums))
  return items, json.loads((folder / META).read_text())


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
  sharding = getattr(leaf, 'sharding', None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _as_there(content, named, optional):
  """`named`, with the leaves below `optional` that are in the checkpoint.

  All of an item's are read, because orbax reads no part of one.
  """
  found = {
    name: {
      path: leaf
      for path, leaf in leaves.items()
      if not f'{name}/{path}'.startswith(optional)
    }
    for name, leaves in named.items()
  }
  for key, value in content['arrays'].items():
    name, path = key.split('/', 1)
    if name in named and optional and key.startswith(optional):
      beside = next(iter(named[name].values())).sharding
      if isinstance(beside, NamedSharding):
        beside = NamedSharding(beside.mesh, PartitionSpec())
      saved = jax.ShapeDtypeStruct(
        value['shape'], value['dtype'], sharding=beside
      )
      found[name][path] = named[name].get(path, saved)
  return found


def _check_fit(folder, content, named):
  """Raises UserError unless the wanted leaves are the saved ones."""
  pick(folder, content, list(named))
  wanted = {
    f'{name}/{path}': f'{leaf.dtype}{list(leaf.shape)}'
    for name, leaves in named.items()
    for path, leaf in leaves.items()
  }
  saved = {
    key: f'{value["dtype"]}{value["shape"]}'
    for key, value in content['arrays'].items()
    if key.split('/')[0] in named
  }
  wrong = [
    f'{key} is {saved.get(key, "not there")} in the checkpoint and '
    f'{wanted.get(key, "not there")} in this config'
    for key in sorted(saved.keys() | wanted.keys())
    if saved.get(key) != wanted.get(key)
  ]
  if wrong:
    more = f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''
    raise UserError(
      f'{folder} is of another model or optimizer: '
      f'{"; ".join(wrong[:3])}{more}.'
    )


def _over_processes(
  sums: Mapping[str, tuple[int, int]],
) -> dict[str, tuple[int, int]]:
  """Adds what each process summed up."""
  if jax.process_count() == 1 or not sums:
    return dict(sums)
  # As uint32 halves, because JAX would cut uint64 down to them.
  local = np.array(list(sums.values()), np.uint64).view(np.uint32)
  parts = np.asarray(multihost_utils.process_allgather(local))
  parts = np.ascontiguousarray(parts, np.uint32).view(np.uint64)  # [P leaf 2]
  whole = [manifest.add_sums(p.tolist()) for p in parts.swapaxes(0, 1)]
  return dict(zip(sums, whole, strict=True))
