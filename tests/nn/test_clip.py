"""Tests for ldm_jax.nn.clip."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn.clip import CLIPTextTransformer, quick_gelu
from ldm_jax.nn.transformer import gelu

ENCODER = CLIPTextTransformer(
  vocab_size=20, length=8, width=16, depth=2, num_heads=2
)
TOKENS = jnp.asarray([[18, 5, 6, 7, 19, 19, 19, 19]])


@pytest.fixture(scope='module')
def params():
  params = ENCODER.init(jax.random.key(0), TOKENS)
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  noisy = [x + jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]
  return jax.tree.unflatten(tree, noisy)


def test_a_position_sees_nothing_after_it(params):
  changed = TOKENS.at[0, 4].set(9)
  before, after = ENCODER.apply(params, TOKENS), ENCODER.apply(params, changed)
  np.testing.assert_array_equal(before[:, :4], after[:, :4])
  assert (np.abs(before - after)[:, 4:].max(-1) > 1e-3).all()


def test_a_shorter_prompt_gives_the_same_first_states(params):
  np.testing.assert_allclose(
    ENCODER.apply(params, TOKENS[:, :5]),
    ENCODER.apply(params, TOKENS)[:, :5],
    atol=1e-5,
  )


def test_quick_gelu_is_near_gelu_and_not_it():
  x = jnp.linspace(-5, 5, 101)
  difference = jnp.abs(quick_gelu(x) - gelu(x)).max()
  assert 0.01 < difference < 0.03
  np.testing.assert_allclose(
    quick_gelu(x), x / (1 + np.exp(-1.702 * x)), atol=1e-6
  )


def test_the_activation_and_the_inner_width_are_fields(params):
  other = ENCODER.clone(activation='gelu')
  difference = other.apply(params, TOKENS) - ENCODER.apply(params, TOKENS)
  assert 1e-4 < jnp.abs(difference).max() < 1
  wide = ENCODER.clone(ffn_width=40)
  shapes = jax.eval_shape(wide.init, jax.random.key(0), TOKENS)['params']
  assert shapes['layer_1_fc1']['kernel'].shape == (16, 40)


def test_too_many_tokens_are_an_error(params):
  with pytest.raises(ValueError, match='9 tokens'):
    ENCODER.apply(params, jnp.zeros((1, 9), jnp.int32))
