"""Attention one head after another, with a gradient of its own, for CPUs.

One head's table of weights, or that of a part of its queries, stays in the
caches between the products that use it. Backwards it is computed again (Dao et
al. 2022, Alg. 4, in blocks of queries), and the gradients of keys and values
are taken as [D N] x [N L], which reads the tables as they lie; differentiated
as written, XLA would copy each to turn it.
"""

import functools

import jax
import jax.numpy as jnp

from ldm_jax.types import Array

# Weights of one image's part, 8 MiB of float32: an eighth of a head at 64x64.
_PART_ELEMENTS = 2**21


def attend(q: Array, k: Array, v: Array, causal: bool) -> Array:
  """softmax(q k^T / sqrt(D)) v: q [B N H D], k and v [B L H D] -> [B N H D].

  The softmax is float32. Forward mode (`jax.jvp`) is refused, as by any
  `jax.custom_vjp`.
  """
  heads = tuple(jnp.moveaxis(x, 2, 0) for x in (q, k, v))
  one = functools.partial(_head, causal) if causal else _in_parts
  y = jax.lax.map(lambda head: one(*head), heads)  # [H B N D]
  return jnp.moveaxis(y, 0, 2)


def _in_parts(q: Array, k: Array, v: Array) -> Array:
  """One head, as many of its queries at once as the caches hold."""
  b, n, d = q.shape
  parts = 1
  while n * k.shape[1] // parts > _PART_ELEMENTS and n % (2 * parts) == 0:
    parts *= 2
  if parts == 1:
    return _head(False, q, k, v)
  split = q.reshape(b, parts, n // parts, d).swapaxes(0, 1)
  y = jax.lax.map(lambda part: _head(False, part, k, v), split)
  return y.swapaxes(0, 1).reshape(b, n, -1)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _head(causal, q, k, v):
  """One head: q [B N D], k and v [B L D] -> [B N D]."""
  return _forward(causal, q, k, v)[0]


def _forward(causal, q, k, v):
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
