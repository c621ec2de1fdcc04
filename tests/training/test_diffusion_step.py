"""The diffusion step: EMA as released, frozen stays frozen, nulls are drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import build
from ldm_jax.training import diffusion_step
from tests import tiny


@pytest.fixture(scope='module')
def run():
  """(parts, training, state, frozen, batch, compiled step)."""
  parts = build.parts(tiny.diffusion(ema_decay=0.5))
  training = build.training(parts)
  state = jax.jit(training.init)(jax.random.key(0))
  first_stage = jax.jit(functools.partial(build.init_first_stage, parts))
  frozen = {
    'first_stage': first_stage(jax.random.key(1)),
    'scale_factor': jnp.float32(2.0),
  }
  batch = parts.blank_batch(4)
  batch['image'] = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3))
  batch['image'] = batch['image'].astype(np.float32)
  return parts, training, state, frozen, batch, jax.jit(training.step)


def test_the_release_averages_like_this():
  decay = functools.partial(diffusion_step.ema_decay_at, decay=0.9999)
  for n in (1, 2, 100, 10**7):
    expected = min(0.9999, (1 + n) / (10 + n))
    np.testing.assert_allclose(decay(jnp.int32(n)), expected, rtol=1e-6)


def test_ema_follows_the_unet(run):
  _, _, state, frozen, batch, step = run
  after, _ = step(state, frozen, batch, jax.random.key(2))
  decay = 2 / 11  # The first update's, below the configured 0.5.
  jax.tree.map(
    lambda old, new, ema: np.testing.assert_allclose(
      ema, decay * old + (1 - decay) * new, rtol=1e-5, atol=1e-7
    ),
    state.ema,
    after.params['unet'],
    after.ema,
  )


def test_the_step_is_a_function_of_its_number(run):
  _, _, state, frozen, batch, step = run
  rng = jax.random.key(2)
  _, first = step(state, frozen, batch, rng)
  _, again = step(state, frozen, batch, rng)
  _, later = step(state.replace(step=state.step + 1), frozen, batch, rng)
  assert first['loss'] == again['loss'] != later['loss']


def test_latents_are_scaled(run):
  _, _, state, frozen, batch, step = run
  rng = jax.random.key(2)
  one = step(state, frozen | {'scale_factor': jnp.float32(1)}, batch, rng)[1]
  two = step(state, frozen, batch, rng)[1]
  np.testing.assert_allclose(
    2 * one['latent_std'], two['latent_std'], rtol=1e-4
  )


def test_everything_trained_moves_in_two_steps(run):
  """Two: zero-initialised outputs hide what is before them from the first."""
  _, _, state, frozen, batch, step = run
  after = state
  for _ in range(3):
    after, _ = step(after, frozen, batch, jax.random.key(2))
  moved = jax.tree.map(lambda a, b: np.any(a != b), state.params, after.params)
  assert all(jax.tree.leaves(moved))


def test_a_learned_log_variance_is_trained():
  parts = build.parts(tiny.diffusion(loss={'learn_logvar': True}))
  training = build.training(parts)
  state = jax.eval_shape(training.init, jax.random.key(0))
  assert state.params['logvar'].shape == (1000,)


def test_a_frozen_text_encoder_stays_bit_for_bit():
  task = {
    'name': 'clip_text', 'width': 16, 'depth': 1, 'num_heads': 2, 'length': 8,
    'vocab_size': 40, 'special_tokens': (38, 39, 39),
  }  # fmt: skip
  config = tiny.diffusion(
    optim={'weight_decay': 0.5, 'learning_rate': 0.1},
    unet={'multipliers': (1,), 'attention_levels': ()},
    first_stage={'multipliers': (1, 1)},
  )
  config['task'] = task
  parts = build.parts(config)
  training = build.training(parts)
  state = jax.jit(training.init)(jax.random.key(0))
  first_stage = jax.jit(functools.partial(build.init_first_stage, parts))
  frozen = {
    'first_stage': first_stage(jax.random.key(1)),
    'scale_factor': jnp.float32(1.0),
  }
  step = jax.jit(training.step)
  after, _ = step(state, frozen, parts.blank_batch(2), jax.random.key(2))
  jax.tree.map(
    np.testing.assert_array_equal,
    state.params['conditioner'],
    after.params['conditioner'],
  )
  moved = jax.tree.map(
    lambda old, new: (old != new).any(),
    state.params['unet']['conv_in'],
    after.params['unet']['conv_in'],
  )
  assert moved['kernel']
  # It is saved and found again as any state.
  again = training.from_items(training.to_items(after))
  assert jax.tree.structure(again) == jax.tree.structure(after)
