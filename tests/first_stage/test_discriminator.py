"""Tests for ldm_jax.first_stage.discriminator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.first_stage.discriminator import BatchNorm, Discriminator
from ldm_jax.types import UserError


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize('layers, expected', [(3, 2_765_633), (2, 663_361)])
def test_parameters_are_the_release_s(layers, expected):
  """The sums of metric_weight_keys' patchgan_n3 and patchgan_n2."""
  shapes = jax.eval_shape(
    Discriminator(num_layers=layers).init,
    jax.random.key(0),
    jnp.zeros((1, 64, 64, 3)),
  )
  assert count(shapes['params']) == expected


@pytest.mark.parametrize('layers, side', [(1, 14), (2, 6), (3, 2)])
def test_a_logit_for_each_patch(layers, side):
  model = Discriminator(channels=4, num_layers=layers)
  x = jnp.zeros((2, 32, 32, 3))
  logits, _ = jax.eval_shape(
    lambda: model.init_with_output(jax.random.key(0), x)
  )
  assert logits.shape == (2, side, side, 1)


def test_initialisation_is_the_release_s():
  model = Discriminator(num_layers=2)
  params = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
  kernel, scale = params['conv_2']['kernel'], params['norm_2']['scale']
  np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.02)
  np.testing.assert_allclose([scale.mean(), scale.std()], [1, 0.02], atol=5e-3)
  assert 'bias' not in params['conv_1'] and 'bias' in params['conv_3']


def test_batch_norm_normalises_and_remembers():
  norm = BatchNorm()
  x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 5, 5, 2))
  variables = norm.init(jax.random.key(1), x, True)
  np.testing.assert_array_equal(variables['batch_stats']['mean'], 0)
  params = {'scale': jnp.ones(2), 'bias': jnp.zeros(2)}
  variables = {**variables, 'params': params}
  y, new = norm.apply(variables, x, True, mutable=['batch_stats'])
  np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(y.var((0, 1, 2)), 1, atol=1e-4)
  flat = np.asarray(x).reshape(-1, 2)
  stats = new['batch_stats']
  np.testing.assert_allclose(stats['mean'], 0.1 * flat.mean(0), rtol=1e-5)
  # The running variance is the unbiased one.
  expected = 0.9 + 0.1 * flat.var(0, ddof=1)
  np.testing.assert_allclose(stats['var'], expected, rtol=1e-5)


def test_batch_norm_recalls_what_it_has_seen():
  norm = BatchNorm()
  x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 5, 5, 2))
  variables = {
    'params': {'scale': jnp.ones(2), 'bias': jnp.zeros(2)},
    'batch_stats': {'mean': jnp.zeros(2), 'var': jnp.ones(2)},
  }
  for _ in range(100):
    seen, new = norm.apply(variables, x, True, mutable=['batch_stats'])
    variables |= new
  np.testing.assert_allclose(norm.apply(variables, x, False), seen, atol=0.02)


def test_an_image_without_a_patch_is_an_error():
  model, x = Discriminator(channels=4), jnp.zeros((1, 16, 16, 3))
  with pytest.raises(UserError, match='16x16.*disc_layers=3; use fewer'):
    jax.eval_shape(model.init, jax.random.key(0), x)
