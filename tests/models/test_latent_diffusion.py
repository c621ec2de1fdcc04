"""Tests for ldm_jax.models.latent_diffusion."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.models.latent_diffusion import LatentDiffusion
from ldm_jax.types import Conditioning


class Mean(nn.Module):
  """A U-Net of one number: what it is told."""

  @nn.compact
  def __call__(self, z, t, cond, train=False):
    gain = self.param('gain', nn.initializers.ones, ())
    told = cond.context.mean((1, 2))[:, None, None, None]
    return gain * (0 * z + told + t[:, None, None, None])


class Labels(nn.Module):
  """label [B] -> context [B 1 1]; the null is -1."""

  def __call__(self, batch, encode, train):
    context = batch['label'][:, None, None].astype(jnp.float32)
    return Conditioning(context=context)

  def null(self, batch):
    return {**batch, 'label': jnp.full_like(batch['label'], -1)}


Z = jnp.zeros((400, 2, 2, 1))
T = jnp.zeros(400)
BATCH = {'label': jnp.arange(1, 401), 'image': jnp.ones((400, 4, 4, 3))}


def run(train, seed=0, **settings):
  model = LatentDiffusion(Mean(), Labels(), **settings)
  params = {'unet': {'gain': jnp.ones(())}}
  rngs = {'null': jax.random.key(seed)}
  y = model.apply({'params': params}, Z, T, BATCH, None, train, rngs=rngs)
  return np.asarray(y)[:, 0, 0, 0]


def test_the_condition_reaches_the_network():
  np.testing.assert_array_equal(run(False), BATCH['label'])
  np.testing.assert_array_equal(run(True), BATCH['label'])


def test_a_share_of_the_examples_forgets_its_condition_in_training():
  told = run(True, null_prob=0.2)
  dropped = told == -1
  np.testing.assert_array_equal(told[~dropped], BATCH['label'][~dropped])
  assert 0.12 < dropped.mean() < 0.28
  assert (run(True, null_prob=0.2, seed=1) == -1).tolist() != dropped.tolist()
  np.testing.assert_array_equal(run(False, null_prob=0.2), BATCH['label'])
  np.testing.assert_array_equal(run(True, null_prob=1.0), -1)


def test_condition_and_then_denoise_is_the_whole_model():
  model = LatentDiffusion(Mean(), Labels())
  params = {'params': {'unet': {'gain': jnp.float32(2)}}}
  cond = model.apply(params, BATCH, None, method='condition')
  np.testing.assert_array_equal(
    model.apply(params, Z, T, cond, method='denoise'),
    model.apply(params, Z, T, BATCH, None),
  )
  null = model.apply(params, BATCH, None, method='null_condition')
  np.testing.assert_array_equal(null.context, -1)


def test_log_variances_are_a_table_where_they_are_learned():
  init = lambda model: model.init(jax.random.key(0), Z, T, BATCH, None)
  plain = LatentDiffusion(Mean(), Labels())
  assert set(init(plain)['params']) == {'unet'}
  assert plain.apply(init(plain), T, method='logvar') is None

  model = LatentDiffusion(
    Mean(), Labels(), logvar_timesteps=10, logvar_init=0.5
  )
  params = init(model)
  np.testing.assert_array_equal(params['params']['logvar'], np.full(10, 0.5))
  params['params']['logvar'] = jnp.arange(10.0)
  t = jnp.array([9, 0, 4])
  np.testing.assert_array_equal(model.apply(params, t, method='logvar'), t)
