"""Devices: the mesh, and what is sharded over it.

Two axes. The batch is split over both; parameters, EMA and optimizer states
are split over `fsdp` and repeated over `data`. The same program runs on one
device, eight, and many hosts.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ldm_jax.types import UserError

AXES = ('data', 'fsdp')
# Smaller leaves cost more to gather than they cost to keep.
MIN_SHARDED_ELEMENTS = 2**16


def make_mesh(
  data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """A (data, fsdp) mesh; data=-1 takes what fsdp leaves of the devices.

  Raises UserError where the devices cannot be split like this.
  """
  devices = list(jax.devices() if devices is None else devices)
  count = len(devices)
  if fsdp < 1 or (data < 1 and data != -1):
    raise UserError(
      f'mesh.data={data}, mesh.fsdp={fsdp}: each must be at least 1 '
      '(data may be -1: whatever fsdp leaves).'
    )
  if data == -1:
    if count % fsdp:
      raise UserError(
        f'mesh.fsdp={fsdp} does not divide the {count} devices that are here. '
        f'Use one of {divisors(count)}.'
      )
    data = count // fsdp
  used = data * fsdp
  if used > count or (used < count and jax.process_count() > 1):
    raise UserError(
      f'mesh.data={data} x mesh.fsdp={fsdp} needs {used} devices, and '
      f'{count} are here. Set mesh.data=-1 to use them all.'
    )
  if used < count:
    logging.warning('The mesh uses %d of %d devices.', used, count)
  # Auto, not JAX's default Explicit: that one rejects convolutions whose
  # kernels are sharded.
  return jax.make_mesh(
    (data, fsdp),
    AXES,
    axis_types=(AxisType.Auto, AxisType.Auto),
    devices=devices[:used],
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The leading dimension split over every device."""
  return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same value on every device."""
  return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh: Mesh, abstract_tree: Any) -> Any:
  """A sharding for every leaf (anything with a shape) of a pytree.

  The rule: a leaf of at least 2**16 elements shards its largest dimension that
  `fsdp` divides (the last of several); every other leaf is replicated. It sees
  shapes only, so moments and EMA land where their parameters are.
  """
  fsdp = mesh.shape['fsdp']

  def rule(leaf):
    shape = tuple(leaf.shape)
    if fsdp == 1 or math.prod(shape) < MIN_SHARDED_ELEMENTS:
      return replicated(mesh)
    fits = [d for d, size in enumerate(shape) if size % fsdp == 0]
    if not fits:
      return replicated(mesh)
    best = max(fits, key=lambda d: (shape[d], d))
    spec = ['fsdp' if d == best else None for d in range(len(shape))]
    return NamedSharding(mesh, PartitionSpec(*spec))

  return jax.tree.map(rule, abstract_tree)


def with_shardings(abstract_tree: Any, shardings: Any) -> Any:
  """ShapeDtypeStructs that carry `shardings`: what a restore is given."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    abstract_tree,
    shardings,
  )


def to_global(
  mesh: Mesh, host_batch: Mapping[str, np.ndarray]
) -> dict[str, jax.Array]:
  """Joins every process's slice of a batch into global, sharded arrays.

  Each process passes its own contiguous rows, in the order of
  `jax.process_index()`; arrays come back with the global leading dimension.
  """
  sharding = batch_sharding(mesh)
  return {
    key: jax.make_array_from_process_local_data(sharding, np.asarray(value))
    for key, value in host_batch.items()
  }


def split(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Splits a batch that every process holds whole into sharded arrays.

  Each process places the rows of its own devices, so that none is there twice.
  """
  sharding = batch_sharding(mesh)
  return {
    key: jax.make_array_from_callback(
      np.shape(value), sharding, np.asarray(value).__getitem__
    )
    for key, value in batch.items()
  }


def replicate(mesh: Mesh, tree: Any) -> Any:
  """The same host values (equal in every process) on every device."""
  sharding = replicated(mesh)

  def place(leaf):
    if isinstance(leaf, jax.Array):
      return jax.device_put(leaf, sharding)
    return jax.make_array_from_process_local_data(
      sharding, np.asarray(leaf), np.shape(leaf)
    )

  return jax.tree.map(place, tree)


def place_keys(keys: jax.Array, sharding: NamedSharding) -> jax.Array:
  """Random keys, equal in every process, as `sharding` has them.

  `jax.device_put` takes host values to other processes' devices too, but keys
  only as the numbers that they are.
  """
  data = jax.device_put(np.asarray(jax.random.key_data(keys)), sharding)
  return jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys))


def check_batch(batch_size: int, mesh: Mesh, grad_accum: int = 1) -> None:
  """Raises UserError unless each device gets whole examples, naming sizes."""
  if grad_accum < 1:
    raise UserError(f'grad_accum={grad_accum} must be at least 1.')
  unit = mesh.size * grad_accum
  if batch_size >= 1 and batch_size % unit == 0:
    return
  below = batch_size // unit * unit
  fitting = [size for size in (below, below + unit) if size > 0]
  share = f'{mesh.size} device{"s" if mesh.size > 1 else ""}'
  if grad_accum > 1:
    share += f' x grad_accum={grad_accum}'
  counts = divisors(batch_size // grad_accum) if batch_size >= 1 else []
  hint = (
    f'; or run it on one of {counts} devices'
    if counts and batch_size % grad_accum == 0
    else ''
  )
  raise UserError(
    f'batch_size={batch_size} cannot be split over {share}: it must be a '
    f'multiple of {unit}. Use {" or ".join(map(str, fitting))}{hint}.'
  )


def divisors(n: int) -> list[int]:
  """All divisors of n, ascending."""
  return [d for d in range(1, n + 1) if n % d == 0]


def describe_shardings(abstract_tree: Any, shardings: Any) -> str:
  """What is sharded how, one line per sharded leaf, and bytes per device."""
  lines = []
  total = local = 0
  leaves = jax.tree_util.tree_leaves_with_path(abstract_tree)
  for (path, leaf), sharding in zip(
    leaves, jax.tree.leaves(shardings), strict=True
  ):
    itemsize = np.dtype(leaf.dtype).itemsize
    total += math.prod(leaf.shape) * itemsize
    local += math.prod(sharding.shard_shape(tuple(leaf.shape))) * itemsize
    if not sharding.is_fully_replicated:
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      lines.append(f'  {name} {tuple(leaf.shape)} {sharding.spec}')
  head = (
    f'{len(lines)} of {len(leaves)} arrays sharded over fsdp, the rest '
    f'replicated: {total / 2**20:.1f} MiB in all, {local / 2**20:.1f} MiB '
    'per device'
  )
  return '\n'.join([head, *lines])


def fetch(x: jax.Array) -> np.ndarray:
  """A global array's value, on every process."""
  if x.is_fully_addressable:
    return np.asarray(x)
  return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def gather(mesh: Mesh, params: Any) -> Any:
  """Parameters whole on every device, inside a jitted function.

  Said plainly, the compiler gathers weights where they are used and keeps the
  batch split. Left to itself it may split channels instead, which moves
  activations, and those are larger.
  """
  if mesh.shape['fsdp'] == 1:
    return params
  return jax.lax.with_sharding_constraint(params, replicated(mesh))
