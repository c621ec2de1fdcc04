"""Inception takes exactly what the published files hold; see tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.evaluation import inception
from ldm_jax.types import UserError
from tests.evaluation import released


@pytest.fixture(scope='module')
def arrays():
  return released.inception()


def test_every_name_of_the_file_is_read(arrays):
  seen = set()

  class Watched(dict):
    def get(self, name, default=None):
      seen.add(name)
      return super().get(name, default)

  params = inception.params_from_arrays(Watched(arrays))
  count = sum(x.size for x in jax.tree.leaves(params))
  unread = {n for n in arrays if not n.endswith('num_batches_tracked')} - seen
  assert unread == {'fc.bias'}  # The score is taken without it.
  assert count == sum(arrays[name].size for name in seen)


def test_features_of_three_kinds():
  image = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
  params = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s, jnp.float32),
    inception.shapes(),
    is_leaf=lambda s: isinstance(s, tuple),
  )
  found = jax.eval_shape(inception.Inception().apply, {'params': params}, image)
  shapes = {name: x.shape for name, x in found.items()}
  assert shapes == {
    'pool': (2, 2048),
    'logits': (2, 1008),
    'spatial': (2, 2023),
  }


def test_average_pools_leave_the_padding_out():
  ones = jnp.ones((1, 5, 5, 1))
  np.testing.assert_allclose(inception._average(ones), ones)


def test_no_file_names_file_digest_and_option():
  with pytest.raises(UserError, match='--inception.*pt_inception.*6726825d'):
    inception.load(None, None)


def test_another_networks_file_is_refused(tmp_path):
  path = tmp_path / 'vgg.npz'
  np.savez(path, **{'features.0.weight': np.zeros((64, 3, 3, 3))})
  with pytest.raises(UserError, match='Conv2d_1a_3x3.* more'):
    inception.load(str(path), None)


def test_a_file_says_whether_it_is_the_published_one(arrays, tmp_path):
  path = tmp_path / 'inception.npz'
  np.savez(path, **arrays)
  network = inception.load(str(path), None)
  assert network.size == 299
  assert network.about['is_the_published_file'] is False
