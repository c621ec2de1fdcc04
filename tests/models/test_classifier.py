"""Tests for ldm_jax.models.classifier."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.classifier import POOLS, AttentionPool, NoisyClassifier
from ldm_jax.models.unet import UNet
from ldm_jax.types import Conditioning, UserError

FIELDS = dict(
  channels=8,
  multipliers=(1, 2),
  attention_levels=(1,),
  num_res_blocks=1,
  num_heads=2,
  norm_groups=4,
)
CLASSIFIER = NoisyClassifier(num_classes=5, hidden=16, **FIELDS)
Z = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
T = np.array([3, 700])


def shapes_of(model, *inputs):
  return jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']


@pytest.mark.parametrize('pool', POOLS)
def test_every_pooling_sees_position_and_time(pool):
  model = dataclasses.replace(CLASSIFIER, pool=pool)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda s: rng.standard_normal(s.shape).astype(np.float32) / 3,
    shapes_of(model, Z, T),
  )
  run = jax.jit(lambda z, t: model.apply({'params': params}, z, t))
  logits = run(Z, T)
  assert logits.shape == (2, 5) and logits.dtype == jnp.float32
  assert np.abs(run(Z, T[::-1]) - logits).max() > 1e-3
  moved = np.array(Z)
  moved[:, 1, 2] += 1
  assert np.abs(run(moved, T) - logits).max() > 1e-3


def test_attention_pooling_knows_one_size():
  params = CLASSIFIER.init(jax.random.key(0), Z, T)['params']
  with pytest.raises(UserError, match='16 positions .* 4x8.*pool=adaptive'):
    CLASSIFIER.apply({'params': params}, np.concatenate([Z, Z], 2), T)


def test_it_is_the_first_half_of_a_unet():
  unet = UNet(out_channels=3, **FIELDS)
  whole = shapes_of(unet, Z, T, Conditioning())
  half = shapes_of(dataclasses.replace(CLASSIFIER, pool='adaptive'), Z, T)
  shared = {k: v for k, v in whole.items() if k in half and k != 'norm_out'}
  assert shared == {k: half[k] for k in shared}
  names = {k for k in whole if not k.startswith(('up_', 'conv_out', 'norm_'))}
  assert names == set(shared)


def test_attention_pooling_is_its_formula():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1, 2, 2, 4)).astype(np.float32)
  pool = AttentionPool(1)
  params = jax.tree.map(
    lambda s: rng.standard_normal(s.shape).astype(np.float32),
    shapes_of(pool, x),
  )
  tokens = np.concatenate([x.mean((1, 2))[:, None], x.reshape(1, 4, 4)], 1)[0]
  tokens = tokens + params['positions']
  qkv = tokens @ params['qkv']['kernel'] + params['qkv']['bias']
  q, k, v = np.split(qkv, 3, -1)
  weights = np.exp(q[0] @ k.T / 2)
  expected = weights / weights.sum() @ v
  found = pool.apply({'params': params}, x)[0]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('fields', 'says'),
  [
    ({'pool': 'max'}, "classifier.pool='max'; allowed: adaptive"),
    ({'num_classes': 1}, 'num_classes=1'),
    ({'num_heads': None}, 'classifier: set exactly one of'),
    ({'norm_groups': 3}, 'classifier: level 0 has 8 channels'),
  ],
)
def test_impossible_fields_are_named(fields, says):
  with pytest.raises(UserError, match=says):
    dataclasses.replace(CLASSIFIER, **fields).check()
