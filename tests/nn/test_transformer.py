"""Tests for ldm_jax.nn.transformer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from ldm_jax.nn.transformer import (
  FeedForward,
  SpatialTransformer,
  TokenTransformer,
  TransformerBlock,
  gelu,
)

X = jax.random.normal(jax.random.key(0), (2, 4, 3, 16))
CONTEXT = jax.random.normal(jax.random.key(1), (2, 5, 8))


def test_gelu_is_exact():
  x = np.linspace(-4, 4, 101)
  expected = x * (1 + erf(x / 2**0.5)) / 2
  np.testing.assert_allclose(gelu(jnp.asarray(x)), expected, atol=1e-6)


def test_the_first_half_is_the_value_and_the_second_the_gate():
  x = jax.random.normal(jax.random.key(0), (1, 3, 4))
  y, params = FeedForward(True).init_with_output(jax.random.key(1), x, False)
  into, out = params['params']['proj_in'], params['params']['proj_out']
  assert into['kernel'].shape == (4, 2 * 16)
  value, gate = np.split(x @ into['kernel'] + into['bias'], 2, axis=-1)
  expected = value * np.asarray(gelu(gate)) @ out['kernel'] + out['bias']
  np.testing.assert_allclose(y, expected, atol=1e-5)


def block_and_params():
  block = TransformerBlock(num_heads=2, head_width=8)
  x = X.reshape(2, 12, 16)
  return block, block.init(jax.random.key(2), x, CONTEXT), x


def without(params, *names):
  """Silences attentions by emptying their output projections."""
  params = jax.tree.map(lambda x: x, params)
  for name in names:
    attn = params['params'][name]
    attn['out'] = jax.tree.map(jnp.zeros_like, attn['out'])
  return params


def test_the_second_attention_reads_the_context_and_the_first_does_not():
  block, params, x = block_and_params()
  changed = lambda params: np.abs(
    block.apply(params, x, CONTEXT) - block.apply(params, x, 2 * CONTEXT)
  ).max()
  assert changed(params) > 1e-3
  assert changed(without(params, 'attn1')) > 1e-3
  assert changed(without(params, 'attn2')) == 0


def test_positions_meet_in_the_first_attention_alone():
  block, params, x = block_and_params()
  moved = x.at[:, 0, 0].add(3.0)
  others = lambda params: np.abs(
    block.apply(params, x, CONTEXT) - block.apply(params, moved, CONTEXT)
  )[:, 1:].max()
  assert others(params) > 1e-3
  assert others(without(params, 'attn1')) == 0


def test_without_a_context_the_second_attention_looks_at_the_image():
  block = TransformerBlock(num_heads=2, head_width=8)
  x = X.reshape(2, 12, 16)
  params = without(block.init(jax.random.key(2), x, None), 'attn1')
  moved = x.at[:, 5, 0].add(3.0)
  y, z = block.apply(params, x, None), block.apply(params, moved, None)
  assert np.abs(y - z)[:, 0].max() > 1e-3


@pytest.mark.parametrize('depth', [1, 2])
def test_a_fresh_spatial_transformer_changes_nothing(depth):
  module = SpatialTransformer(2, depth, norm_groups=4)
  y, params = module.init_with_output(jax.random.key(0), X, CONTEXT)
  np.testing.assert_array_equal(y, X)
  assert set(params['params']) == {
    'norm', 'proj_in', 'proj_out', *(f'block_{i}' for i in range(depth)),
  }  # fmt: skip


def test_positions_of_an_image_have_no_order():
  module = SpatialTransformer(2, norm_groups=4)
  params = module.init(jax.random.key(0), X, CONTEXT)
  kernel = jax.random.normal(jax.random.key(1), (1, 1, 16, 16))
  params['params']['proj_out']['kernel'] = kernel
  y = module.apply(params, X, CONTEXT)
  moved = module.apply(params, X[:, :, ::-1], CONTEXT)
  np.testing.assert_allclose(moved, y[:, :, ::-1], atol=1e-5)


# The condition encoder.


def token_transformer(**settings):
  settings = dict(vocab_size=20, length=6, width=16, depth=2) | settings
  module = TokenTransformer(**settings, num_heads=2, head_width=12)
  tokens = jnp.array([[1, 2, 3, 0, 0, 0]])
  return module, module.init(jax.random.key(0), tokens), tokens


def test_pads_are_attended():
  module, params, tokens = token_transformer()
  other = tokens.at[0, 5].set(7)
  before, after = module.apply(params, tokens), module.apply(params, other)
  assert np.abs(before - after)[0, 0].max() > 1e-5


def test_order_matters_by_learned_positions():
  module, params, tokens = token_transformer()
  swapped = tokens[:, jnp.array([1, 0, 2, 3, 4, 5])]
  y, z = module.apply(params, tokens), module.apply(params, swapped)
  assert np.abs(y[:, 0] - z[:, 1]).max() > 1e-3
  table = params['params']['positions']
  params['params']['positions'] = jax.tree.map(jnp.zeros_like, table)
  y, z = module.apply(params, tokens), module.apply(params, swapped)
  np.testing.assert_allclose(y[:, 0], z[:, 1], atol=1e-5)


def test_the_last_thing_is_a_norm():
  module, params, tokens = token_transformer()
  y = module.apply(params, tokens)
  np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
  np.testing.assert_allclose(y.std(-1), 1, atol=1e-3)


@pytest.mark.parametrize(
  ('width', 'depth', 'count'),
  # Of the release's 582.0M for the 1.45B model, 39.1 are an unused head.
  [(1280, 32, 581_994_042 - 1281 * 30522), (640, 32, None)],
)
def test_the_paper_s_parameter_counts(width, depth, count):
  module = TokenTransformer(30522, 77, width, depth)
  shapes = jax.eval_shape(
    module.init, jax.random.key(0), jnp.zeros((1, 77), jnp.int32)
  )
  tables = (30522 + 77) * width
  attention = 3 * width * 512 + 513 * width
  feed_forward = (width + 1) * 4 * width + (4 * width + 1) * width
  layer = attention + feed_forward + 4 * width
  expected = tables + depth * layer + 2 * width
  assert sum(x.size for x in jax.tree.leaves(shapes)) == expected
  assert count in (None, expected)


def test_too_many_tokens_are_an_error():
  module, params, tokens = token_transformer()
  with pytest.raises(ValueError, match='7 tokens'):
    module.apply(params, jnp.zeros((1, 7), jnp.int32))
