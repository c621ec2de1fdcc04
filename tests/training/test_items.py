"""Tests for ldm_jax.training.items."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ldm_jax.training import items, parallel


class Pair(NamedTuple):
  left: float
  right: object


@flax.struct.dataclass
class Struct:
  value: object


def test_leaves_are_named_by_their_path():
  tree = {
    'b': (Pair(1.0, None), [2, {'x/y': 3}]),
    'a': Struct(jnp.zeros(2)),
  }
  named = items.named_leaves(tree)
  assert list(named) == ['a/value', 'b/0/left', 'b/1/0', 'b/1/1/x/y']
  assert items.nested(named)['b']['1']['1']['x']['y'] == 3


def test_python_numbers_become_what_jax_would_make_of_them():
  named = items.named_leaves({'i': 3, 'f': 0.5})
  assert named['i'].dtype == jnp.asarray(3).dtype
  assert named['f'].dtype == jnp.asarray(0.5).dtype


def test_two_leaves_of_one_name_are_refused():
  with pytest.raises(ValueError, match='a/b'):
    items.named_leaves({'a/b': 1, 'a': {'b': 2}})


def test_typed_keys_are_refused():
  with pytest.raises(TypeError, match='key_data'):
    items.named_leaves({'rng': jax.random.key(0)})


@pytest.mark.parametrize(
  'spec', [(), ('data',), (None, 'fsdp'), ('fsdp', 'data'), (('data', 'fsdp'),)]
)
def test_every_element_is_answered_for_once(spec):
  mesh = parallel.make_mesh(2, 4)
  value = np.arange(64.0, dtype=np.float32).reshape(8, 8)
  array = jax.device_put(value, NamedSharding(mesh, PartitionSpec(*spec)))
  seen = np.zeros((8, 8), int)
  for data, index in items.host_shards(array):
    seen[index] += 1
    np.testing.assert_array_equal(data, value[index])
  assert (seen == 1).all()


def test_the_sums_do_not_depend_on_the_sharding():
  value = np.random.default_rng(0).normal(size=(8, 4, 16)).astype(np.float32)
  mesh = parallel.make_mesh(2, 4)
  lines = [
    items.describe(array, items.host_shards(array))
    for array in (
      value,
      jnp.asarray(value),
      jax.device_put(value, NamedSharding(mesh, PartitionSpec('data', 'fsdp'))),
      jax.device_put(
        value, NamedSharding(mesh, PartitionSpec(None, None, 'fsdp'))
      ),
    )
  ]
  assert all(line == lines[0] for line in lines)


@pytest.mark.parametrize('spec', [(), ('fsdp',), (None, ('fsdp',))])
def test_of_copies_the_first_are_handed_over(spec):
  mesh = parallel.make_mesh(2, 4)
  value = np.arange(8 * 12, dtype=np.float32).reshape(8, 12)
  sharding = NamedSharding(mesh, PartitionSpec(*spec))
  leaf = items.without_copies(jax.device_put(value, sharding))
  assert {shard.replica_id for shard in leaf.addressable_shards} == {0}
  assert len(leaf.devices()) == (4 if spec else 1)
  np.testing.assert_array_equal(leaf, value)


def test_what_has_no_copies_stays_as_it_is():
  mesh = parallel.make_mesh(2, 4)
  sharding = NamedSharding(mesh, PartitionSpec('data', 'fsdp'))
  leaf = jax.device_put(np.zeros((8, 12), np.float32), sharding)
  assert items.without_copies(leaf) is leaf
