"""Tests for ldm_jax.training.optim."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.training import optim
from ldm_jax.training.optim import OptimSpec
from ldm_jax.types import UserError


def rates(spec, num_steps=100, batch_size=8):
  schedule = optim.learning_rate(spec, num_steps, batch_size)
  return np.asarray(jax.vmap(schedule)(jnp.arange(num_steps + 1)))


def one_step(spec, params, grads, num_steps=10):
  tx = optim.make(spec, num_steps, batch_size=1)
  updates, state = tx.update(grads, tx.init(params), params)
  return updates, state


def test_constant_is_constant():
  assert set(rates(OptimSpec(0.5)).tolist()) == {0.5}


def test_the_release_scales_by_the_global_batch():
  spec = OptimSpec(1e-6, scale_lr=True)
  np.testing.assert_allclose(rates(spec, batch_size=96), 96e-6, rtol=1e-6)


@pytest.mark.parametrize('schedule', optim.SCHEDULES)
def test_warm_up_climbs_evenly_from_the_first_step(schedule):
  spec = OptimSpec(1.0, schedule=schedule, warmup_steps=10)
  found = rates(spec)
  np.testing.assert_allclose(found[:10], np.arange(1, 11) / 10, rtol=1e-6)
  assert found.max() == found[9] == 1.0


@pytest.mark.parametrize('schedule', ['cosine', 'linear'])
@pytest.mark.parametrize('final', [0.0, 0.1])
def test_decay_goes_from_peak_to_final(schedule, final):
  spec = OptimSpec(
    2.0, schedule=schedule, warmup_steps=20, final_fraction=final
  )
  found = rates(spec)
  assert (np.diff(found[20:]) < 0).all()
  np.testing.assert_allclose(found[20], 2.0)
  np.testing.assert_allclose(found[60], 1.0 + final, rtol=1e-5)  # Half way.
  np.testing.assert_allclose(found[100], 2.0 * final, atol=1e-6)


@pytest.mark.parametrize('schedule', ['cosine', 'linear'])
def test_decay_may_end_before_the_run_and_stays_there(schedule):
  spec = OptimSpec(1.0, schedule=schedule, warmup_steps=10, final_fraction=0.1)
  short = rates(spec, num_steps=50)
  found = rates(dataclasses.replace(spec, decay_steps=50), num_steps=100)
  np.testing.assert_array_equal(found[:51], short)
  np.testing.assert_allclose(found[50:], 0.1, rtol=1e-6)


@pytest.mark.parametrize('schedule', ['cosine', 'linear'])
def test_a_held_rate_decays_after_it_as_a_run_of_its_own(schedule):
  spec = OptimSpec(1.0, schedule=schedule, final_fraction=0.1)
  alone = rates(spec, num_steps=20)
  held = dataclasses.replace(spec, warmup_steps=10, hold_steps=80)
  found = rates(held, num_steps=100)
  np.testing.assert_allclose(found[:10], np.arange(1, 11) / 10, rtol=1e-6)
  assert (found[10:81] == 1.0).all() and found[81] < 1.0
  np.testing.assert_allclose(found[80:], alone[:21], rtol=1e-6)
  # As long as the warm-up, it changes nothing.
  warm = dataclasses.replace(spec, warmup_steps=10)
  same = dataclasses.replace(warm, hold_steps=10)
  np.testing.assert_array_equal(rates(same), rates(warm))


def test_a_rate_held_to_the_end_is_refused():
  spec = OptimSpec(1.0, schedule='cosine', hold_steps=100)
  with pytest.raises(UserError, match='hold_steps=100 .*num_steps=100'):
    optim.learning_rate(spec, 100, 1)


def test_the_first_step_is_the_rate_whatever_the_gradient():
  """Adam's first update is lr * sign(gradient)."""
  updates, _ = one_step(
    OptimSpec(0.1, weight_decay=0.0),
    {'w': jnp.ones(3)},
    {'w': jnp.array([1e-3, -5.0, 200.0])},
  )
  np.testing.assert_allclose(updates['w'], [-0.1, 0.1, -0.1], rtol=1e-4)


def test_weight_decay_is_decoupled_and_on_every_parameter():
  params = {'kernel': jnp.full((2, 2), 3.0), 'bias': jnp.array([4.0])}
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = one_step(OptimSpec(0.1, weight_decay=0.01), params, zero)
  np.testing.assert_allclose(updates['kernel'], -0.003, rtol=1e-5)
  np.testing.assert_allclose(updates['bias'], -0.004, rtol=1e-5)
  updates, _ = one_step(OptimSpec(0.1, weight_decay=0.0), params, zero)
  assert not any(leaf.any() for leaf in jax.tree.leaves(updates))


def test_clipping_is_by_the_norm_over_all_parameters():
  grads = {'a': jnp.array([3.0]), 'b': jnp.array([4.0])}  # Norm 5.
  params = jax.tree.map(jnp.zeros_like, grads)
  moments = []
  for clip in (0.0, 1.0, 10.0):
    _, state = one_step(OptimSpec(0.1, clip_norm=clip), params, grads)
    moments.append(state[1][0].mu['a'] / (1 - 0.9))
  np.testing.assert_allclose(np.ravel(moments), [3.0, 0.6, 3.0], rtol=1e-5)


def test_only_the_first_moment_may_be_bfloat16():
  params = {'w': jnp.ones(2)}
  _, state = one_step(OptimSpec(0.1, moment_dtype='bfloat16'), params, params)
  assert state[1][0].mu['w'].dtype == jnp.bfloat16
  assert state[1][0].nu['w'].dtype == jnp.float32


def test_matches_adamw_as_published():
  """Loshchilov & Hutter 2019, Algorithm 2, written out in float64."""
  spec = OptimSpec(0.01, b1=0.8, b2=0.95, weight_decay=0.1)
  tx = optim.make(spec, 10, 1)
  rng = np.random.default_rng(0)
  theta = rng.normal(size=5)
  params = {'w': jnp.float32(theta)}
  state, m, v = tx.init(params), 0.0, 0.0
  for t in range(1, 6):
    g = rng.normal(size=5)
    m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
    step = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
    theta = theta - 0.01 * (step + 0.1 * theta)
    updates, state = tx.update({'w': jnp.float32(g)}, state, params)
    params = {'w': params['w'] + updates['w']}
  np.testing.assert_allclose(params['w'], theta, rtol=1e-5)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'learning_rate': 0.0}, 'learning_rate=0.0.*above 0'),
    ({'schedule': 'cosin'}, "schedule='cosin'.*'cosine'"),
    ({'warmup_steps': -1}, 'warmup_steps=-1'),
    ({'decay_steps': -1}, 'decay_steps=-1'),
    (
      {'decay_steps': 9, 'warmup_steps': 9, 'schedule': 'cosine'},
      'decay_steps=9.*above warmup_steps=9',
    ),
    ({'decay_steps': 9}, "decay_steps=9.*schedule='constant'"),
    ({'hold_steps': 9}, "hold_steps=9.*schedule='constant'"),
    (
      {'hold_steps': 5, 'warmup_steps': 9, 'schedule': 'cosine'},
      'hold_steps=5.*9 .warmup_steps. or more',
    ),
    (
      {'decay_steps': 9, 'hold_steps': 9, 'schedule': 'linear'},
      'decay_steps=9.*above hold_steps=9',
    ),
    ({'final_fraction': 1.5}, 'final_fraction=1.5'),
    ({'b1': 1.0}, 'b1=1.0'),
    ({'b2': -0.1}, 'b2=-0.1'),
    ({'eps': 0.0}, 'eps=0.0'),
    ({'weight_decay': -1.0}, 'weight_decay=-1.0'),
    ({'clip_norm': -1.0}, 'clip_norm=-1.0'),
    ({'moment_dtype': 'float16'}, "moment_dtype='float16'.*bfloat16"),
  ],
)
def test_impossible_values_are_refused_by_name(change, message):
  with pytest.raises(UserError, match=f'optim.{message}'):
    dataclasses.replace(OptimSpec(1e-4), **change)


def test_a_warm_up_longer_than_the_run_is_refused():
  with pytest.raises(UserError, match='warmup_steps=11.*num_steps=10'):
    optim.learning_rate(OptimSpec(1e-4, warmup_steps=11), 10, 1)


def test_frozen_parts_stay_what_they_are():
  spec = OptimSpec(0.1, weight_decay=0.5, clip_norm=1.0)
  params = {
    'unet': {'w': jnp.ones(3)},
    'conditioner': {'deep': {'w': jnp.full(4, 2.0)}},
  }
  tx = optim.make(spec, 10, batch_size=1, frozen=('conditioner',))
  state = tx.init(params)
  # Two moments of the U-Net alone.
  assert sum(x.size for x in jax.tree.leaves(state) if x.ndim) == 2 * 3
  grads = jax.tree.map(jnp.ones_like, params)
  updates, _ = tx.update(grads, state, params)
  assert not updates['conditioner']['deep']['w'].any()
  alone = {'unet': params['unet']}
  wanted, _ = one_step(spec, alone, {'unet': grads['unet']})
  np.testing.assert_array_equal(updates['unet']['w'], wanted['unet']['w'])


def test_the_global_norm_is_that_of_all_numbers():
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  tree = {'large': draw(300, 400), 'small': [draw(7), draw(), draw(5, 3)]}
  numbers = np.concatenate([x.ravel() for x in jax.tree.leaves(tree)])
  found = jax.jit(optim.global_norm)(tree)
  np.testing.assert_allclose(found, np.linalg.norm(numbers), rtol=1e-6)
  half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), tree)
  assert optim.global_norm(half).dtype == jnp.float32
  np.testing.assert_allclose(optim.global_norm(half), found, rtol=1e-3)
