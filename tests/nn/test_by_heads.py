"""Attention head by head: softmax(q k^T / sqrt(D)) v, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn import by_heads


def draw(seed, *shape, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), dtype)


def reference(q, k, v, causal):
  """In float64, as the definition has it."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  logits = np.einsum('bnhd,blhd->bhnl', q, k) / np.sqrt(q.shape[-1])
  if causal:
    logits = np.where(np.tri(*logits.shape[-2:], dtype=bool), logits, -np.inf)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum('bhnl,blhd->bnhd', weights, v)


@pytest.mark.parametrize('batch, queries, keys', [(1, 6, 6), (2, 5, 9)])
@pytest.mark.parametrize('causal', [False, True])
def test_equals_the_definition(batch, queries, keys, causal):
  q, k = draw(0, batch, queries, 3, 4), draw(1, batch, keys, 3, 4)
  v = draw(2, batch, keys, 3, 4) + 1
  y = by_heads.attend(q, k, v, causal)
  np.testing.assert_allclose(y, reference(q, k, v, causal), atol=1e-6)


@pytest.mark.parametrize('causal', [False, True])
def test_gradients_are_finite_differences(causal):
  q, k, v, *steps = (draw(i, 2, 5, 3, 4) for i in range(6))
  loss = lambda attend, *qkv: attend(*qkv, causal).astype(float).sum(-1)

  def slope(i):
    moved = lambda sign: [
      np.asarray(x, np.float64) + sign * 1e-4 * (j == i) * np.asarray(steps[j])
      for j, x in enumerate((q, k, v))
    ]
    up, down = (np.sin(loss(reference, *moved(s))).sum() for s in (1, -1))
    return (up - down) / 2e-4

  ours = jax.grad(
    lambda *qkv: jnp.sin(loss(by_heads.attend, *qkv)).sum(), (0, 1, 2)
  )(q, k, v)
  for i, gradient in enumerate(ours):
    np.testing.assert_allclose(
      np.vdot(gradient, steps[i]), slope(i), rtol=1e-4, atol=1e-4
    )


def test_blocks_change_nothing(monkeypatch):
  q, k, v = draw(0, 2, 12, 3, 4), draw(1, 2, 10, 3, 4), draw(2, 2, 10, 3, 4)
  k = k.at[:, 7].mul(40)  # Maxima lie in the later block.

  def value_and_gradients(q, k, v):
    y, vjp = jax.vjp(lambda *qkv: by_heads.attend(*qkv, False), q, k, v)
    return y, *vjp(jnp.cos(y))

  whole = value_and_gradients(q, k, v)
  monkeypatch.setattr(by_heads, '_BLOCK_KEYS', 5)
  monkeypatch.setattr(by_heads, '_BLOCK_ELEMENTS', 30)
  # Forward two blocks of keys for two of queries, backward four of queries.
  program = str(jax.make_jaxpr(lambda *qkv: value_and_gradients(*qkv))(q, k, v))
  assert program.count('length=2') == 2 and program.count('length=4') == 1
  for a, b in zip(value_and_gradients(q, k, v), whole, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(whole[0], reference(q, k, v, False), atol=1e-5)


def test_half_precision_keeps_its_type_and_a_float32_softmax():
  q, k, v = (draw(i, 1, 8, 2, 16, dtype=jnp.bfloat16) for i in range(3))
  y, vjp = jax.vjp(lambda *qkv: by_heads.attend(*qkv, False), 40 * q, k, v)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    y.astype(float), reference(40 * q, k, v, False), atol=0.05
  )
  assert {x.dtype for x in vjp(y)} == {jnp.dtype(jnp.bfloat16)}
