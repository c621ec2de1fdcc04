"""Tests for ldm_jax.nn.attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn import attention
from ldm_jax.types import UserError


def qkv(queries=7, keys=5, heads=3, width=8, dtype=jnp.float32):
  rngs = jax.random.split(jax.random.key(0), 3)
  draw = lambda rng, n: jax.random.normal(rng, (2, n, heads, width), dtype)
  return draw(rngs[0], queries), draw(rngs[1], keys), draw(rngs[2], keys)


@pytest.mark.parametrize('causal', [False, True])
def test_xla_is_jax_s_own(causal):
  q, k, v = qkv(keys=7)
  expected = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
  for backend in (None, 'xla'):
    y = attention.attend(q, k, v, backend, causal)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_half_precision_stays_in_range_and_softmax_is_float32():
  q, k, v = qkv(keys=64, width=64, dtype=jnp.float16)
  # The plain product would reach 64 * 40 * 40 > 65504.
  y = attention.attend(40 * jnp.ones_like(q), 40 * jnp.ones_like(k), v, 'xla')
  assert y.dtype == jnp.float16
  even = v.astype(jnp.float32).mean(1, keepdims=True)
  np.testing.assert_allclose(y, jnp.broadcast_to(even, y.shape), atol=2e-3)


def test_keys_have_no_order():
  q, k, v = qkv()
  order = jnp.array([3, 1, 4, 0, 2])
  np.testing.assert_allclose(
    attention.attend(q, k[:, order], v[:, order]),
    attention.attend(q, k, v),
    atol=1e-6,
  )


def test_heads_do_not_mix():
  q, k, v = qkv()
  y = attention.attend(q, k, v)
  for i in range(3):
    one = slice(i, i + 1)
    alone = attention.attend(q[:, :, one], k[:, :, one], v[:, :, one])
    np.testing.assert_allclose(y[:, :, one], alone, atol=1e-6)


@pytest.mark.parametrize(
  ('platform', 'dtype', 'queries', 'width', 'expected'),
  [
    ('cpu', jnp.bfloat16, 4096, 64, 'xla'),
    ('gpu', jnp.bfloat16, 4096, 64, 'cudnn'),
    ('gpu', jnp.float32, 4096, 64, 'xla'),
    ('gpu', jnp.bfloat16, 4096, 160, 'xla'),
    ('gpu', jnp.bfloat16, 4096, 12, 'xla'),
    ('tpu', jnp.bfloat16, 4096, 64, 'tpu_flash'),
    ('tpu', jnp.bfloat16, 256, 64, 'xla'),
    ('tpu', jnp.bfloat16, 1000, 64, 'xla'),
  ],
)
def test_the_backend_by_device(platform, dtype, queries, width, expected):
  shape = (2, queries, 8, width)
  backend, why = attention._choose(platform, jnp.dtype(dtype), shape, shape)
  assert backend == expected and why


def test_an_unknown_backend_is_named():
  with pytest.raises(UserError, match="attention_backend='flash'.*cudnn"):
    attention.attend(*qkv(), backend='flash')


def test_heads_split_and_merge():
  x = jax.random.normal(jax.random.key(0), (2, 5, 12))
  split = attention.split_heads(x, 3)
  np.testing.assert_array_equal(split[:, :, 1], x[:, :, 4:8])
  np.testing.assert_array_equal(attention.merge_heads(split), x)


def test_multi_head_attention_has_the_release_s_biases():
  x = jnp.ones((1, 4, 12))
  shapes = lambda **kw: jax.tree.map(
    jnp.shape,
    attention.MultiHeadAttention(2, 8, **kw).init(
      jax.random.key(0), x, jnp.ones((1, 3, 5))
    )['params'],
  )
  released = {
    'q': {'kernel': (12, 16)},
    'k': {'kernel': (5, 16)},
    'v': {'kernel': (5, 16)},
    'out': {'kernel': (16, 12), 'bias': (12,)},
  }
  assert shapes() == released
  assert shapes(qkv_bias=True)['k'] == {'kernel': (5, 16), 'bias': (16,)}


def block_and_params(num_heads):
  block = attention.AttentionBlock(num_heads, norm_groups=4)
  x = jax.random.normal(jax.random.key(0), (2, 4, 3, 12))
  params = block.init(jax.random.key(1), x)['params']
  return block, params, x


def test_a_fresh_attention_block_changes_nothing():
  block, params, x = block_and_params(3)
  np.testing.assert_array_equal(block.apply({'params': params}, x), x)


def test_the_fused_projection_goes_by_head_and_then_by_q_k_v():
  """Moving whole heads, with their rows of proj_out, changes nothing."""
  block, params, x = block_and_params(3)
  rng = np.random.default_rng(0)
  draw = lambda x: rng.normal(size=x.shape).astype(np.float32)
  params = jax.tree.map(draw, params)
  y = block.apply({'params': params}, x)
  order = [2, 0, 1]
  move = lambda x, axis, parts: np.concatenate(
    [np.split(x, parts, axis)[i] for i in order], axis
  )
  moved = {
    'norm': params['norm'],
    'qkv': {k: move(v, -1, 3) for k, v in params['qkv'].items()},
    'proj_out': {
      'kernel': move(params['proj_out']['kernel'], 0, 3),
      'bias': params['proj_out']['bias'],
    },
  }
  np.testing.assert_allclose(
    block.apply({'params': moved}, x), y, rtol=1e-4, atol=1e-4
  )
  # Inside a head: without q or k all positions get the same mean; without v
  # they get the bias alone.
  for part in range(3):
    less = jax.tree.map(np.copy, params)
    for leaf in less['qkv'].values():
      leaf.reshape(*leaf.shape[:-1], 3, 3, 4)[..., part, :] = 0
    added = np.asarray(block.apply({'params': less}, x) - x)
    assert np.ptp(added, axis=(1, 2)).max() < 1e-5
    nothing = np.abs(added - params['proj_out']['bias']).max() < 1e-5
    assert nothing == (part == 2)


def test_positions_have_no_order():
  block, params, x = block_and_params(2)
  params['proj_out']['kernel'] = jax.random.normal(jax.random.key(2), (12, 12))
  y = block.apply({'params': params}, x)
  np.testing.assert_allclose(
    block.apply({'params': params}, x[:, ::-1]), y[:, ::-1], atol=1e-5
  )


def test_a_large_table_is_walked_in_parts(monkeypatch):
  q, k, v = (
    jax.random.normal(jax.random.key(i), (2, n, 2, 8))
    for i, n in enumerate((12, 10, 10))
  )
  whole = attention.attend(q, k, v, 'xla')
  monkeypatch.setattr(attention, '_TABLE_ELEMENTS', 2 * 2 * 4 * 10)
  assert attention._query_parts(q.shape, k.shape) == 4
  np.testing.assert_allclose(attention.attend(q, k, v, 'xla'), whole, atol=1e-6)


@pytest.mark.parametrize('causal', [False, True])
def test_heads_one_by_one_change_nothing(monkeypatch, causal):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  q, k, v = qkv(keys=7)
  loss = lambda q, k, v: jnp.sum(
    jnp.sin(attention.attend(q, k, v, 'xla', causal))
  )
  whole = jax.value_and_grad(loss, (0, 1, 2))(q, k, v)
  monkeypatch.setattr(attention, '_HEAD_ELEMENTS', 7 * 7)
  assert 'scan' in str(jax.make_jaxpr(loss)(q, k, v))
  walked = jax.value_and_grad(loss, (0, 1, 2))(q, k, v)
  for a, b in zip(*map(jax.tree.leaves, (walked, whole)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_only_large_heads_on_a_cpu_are_walked(monkeypatch):
  by_heads = lambda n, heads: attention._by_heads(*2 * ((1, n, heads, 32),))
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  assert by_heads(1024, 14)
  assert by_heads(1024, 1)
  assert not by_heads(256, 14)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert not by_heads(1024, 14)
