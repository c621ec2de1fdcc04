"""Attention one head after another, with a gradient of its own, for CPUs.

One head's table of weights stays in the caches between the products that use
it. Backwards it is computed again (Dao et al. 2022, Alg. 4, one block a head),
and the gradients of keys and values are taken as [D N] x [N L], which reads the
tables as they lie; differentiated as written, XLA would copy each to turn it.
"""

import functools

import jax
import jax.numpy as jnp

from ldm_jax.types import Array


def attend(q: Array, k: Array, v: Array, causal: bool) -> Array:
  """softmax(q k^T / sqrt(D)) v: q [B N H D], k and v [B L H D] -> [B N H D].

  The softmax is float32. Forward mode (`jax.jvp`) is refused, as by any
  `jax.custom_vjp`.
  """
  heads = tuple(jnp.moveaxis(x, 2, 0) for x in (q, k, v))
  y = jax.lax.map(lambda head: _head(*head, causal), heads)  # [H B N D]
  return jnp.moveaxis(y, 0, 2)


def logits_of(q: Array, k: Array, causal: bool) -> Array:
  """[.. N D], [.. L D] -> float32 [.. N L]; those not to be seen are lowest.

  q and k are each scaled by D^-1/4, as released: in half precision the product
  stays in range.
  """
  scale = q.shape[-1] ** -0.25
  logits = jnp.einsum(
    '...nd,...ld->...nl',
    q * scale,
    k * scale,
    preferred_element_type=jnp.float32,
  )
  if causal:
    seen = jnp.tri(*logits.shape[-2:], dtype=bool)
    logits = jnp.where(seen, logits, jnp.finfo(logits.dtype).min)
  return logits


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _head(q, k, v, causal):
  """One head: q [B N D], k and v [B L D] -> [B N D]."""
  return _forward(q, k, v, causal)[0]


def _forward(q, k, v, causal):
  logits = logits_of(q, k, causal)
  peaks = jnp.max(logits, -1, keepdims=True)
  weights = jnp.exp(logits - peaks)
  sums = jnp.sum(weights, -1, keepdims=True)
  y = jnp.einsum(
    'bnl,bld->bnd',
    weights.astype(v.dtype),
    v,
    preferred_element_type=jnp.float32,
  )
  y = y / sums
  return y.astype(v.dtype), (q, k, v, y, peaks + jnp.log(sums))


def _backward(causal, residuals, dy):
  q, k, v, y, log_sums = residuals
  dtype, scale = q.dtype, q.shape[-1] ** -0.5
  weights = jnp.exp(logits_of(q, k, causal) - log_sums)
  q, k, v, dy = (x.astype(jnp.float32) for x in (q, k, v, dy))
  dlogits = weights * (
    jnp.einsum('bnd,bld->bnl', dy, v)
    - jnp.einsum('bnd,bnd->bn', dy, y)[..., None]
  )
  turned = lambda x, table: jnp.einsum('bnd,bnl->bdl', x, table).swapaxes(1, 2)
  dq = jnp.einsum('bnl,bld->bnd', dlogits, k) * scale
  dk = turned(q, dlogits) * scale
  return tuple(x.astype(dtype) for x in (dq, dk, turned(dy, weights)))


_head.defvjp(_forward, _backward)
