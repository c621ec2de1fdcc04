"""Attention one head after another, with a gradient of its own, for CPUs.

Each image's are walked apart, as a batch's tables of one head would leave the
caches. A table of weights is walked in blocks that stay there between the
products that use them: forward of queries and keys, each block's softmax
relative to its own maxima (Dao et al. 2022, Alg. 1), backward of queries, whose
weights are computed again (Alg. 4). The gradients of keys and values are taken
as [D N] x [N L], which reads the tables as they lie; differentiated as written,
XLA would copy each to turn it.
"""

import functools

import jax
import jax.numpy as jnp

from ldm_jax.types import Array

# Weights of one block, 8 MiB of float32, and the keys of one.
_BLOCK_ELEMENTS = 2**21
_BLOCK_KEYS = 1024


def attend(q: Array, k: Array, v: Array, causal: bool) -> Array:
  """softmax(q k^T / sqrt(D)) v: q [B N H D], k and v [B L H D] -> [B N H D].

  The softmax is float32. Forward mode (`jax.jvp`) is refused, as by any
  `jax.custom_vjp`.
  """
  b, _, h, _ = q.shape
  # An axis of one is left: products of three axes are the faster ones backward.
  fold = lambda x: x.swapaxes(1, 2).reshape(b * h, 1, -1, x.shape[-1])
  heads = tuple(fold(x) for x in (q, k, v))
  y = jax.lax.map(lambda head: _head(causal, *head), heads)  # [B*H 1 N D]
  return y.reshape(b, h, -1, y.shape[-1]).swapaxes(1, 2)


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
  """One head: q [1 N D], k and v [1 L D] -> [1 N D]."""
  return _forward(causal, q, k, v)[0]


def _forward(causal, q, k, v):
  kv = _blocks((k, v), _BLOCK_KEYS, causal)

  def of_queries(q):
    nothing = (
      jnp.full((*q.shape[:2], 1), jnp.finfo(jnp.float32).min),
      jnp.zeros((*q.shape[:2], 1)),
      jnp.zeros((*q.shape[:2], v.shape[-1])),
    )
    more = lambda sums, kv: (_merged(sums, _sums(causal, q, *kv)), None)
    (peaks, total, y), _ = jax.lax.scan(more, nothing, kv)
    return y / total, peaks + jnp.log(total)

  at_once = _BLOCK_ELEMENTS // kv[0].shape[2]
  (queries,) = _blocks((q,), at_once, causal)
  y, log_sums = map(_joined, jax.lax.map(of_queries, queries))
  return y.astype(v.dtype), (q, k, v, y, log_sums)


def _sums(causal, q, k, v):
  """(maxima, sums of weights, weighted sums of v) over these keys."""
  logits = logits_of(q, k, causal)
  peaks = jnp.max(logits, -1, keepdims=True)
  weights = jnp.exp(logits - peaks)
  y = jnp.einsum(
    'bnl,bld->bnd',
    weights.astype(v.dtype),
    v,
    preferred_element_type=jnp.float32,
  )
  return peaks, jnp.sum(weights, -1, keepdims=True), y


def _merged(one, other):
  """What `_sums` gives over the keys of both."""
  peaks = jnp.maximum(one[0], other[0])
  first, second = (jnp.exp(sums[0] - peaks) for sums in (one, other))
  return peaks, *(first * a + second * b for a, b in zip(one[1:], other[1:]))


def _backward(causal, residuals, dy):
  q, k, v, y, log_sums = residuals
  scale = q.shape[-1] ** -0.5
  k32, v32, dy = (x.astype(jnp.float32) for x in (k, v, dy))
  turned = lambda x, table: jnp.einsum('bnd,bnl->bdl', x, table).swapaxes(1, 2)

  def of_queries(sums, part):
    q, y, log_sums, dy = part
    weights = jnp.exp(logits_of(q, k, causal) - log_sums)
    dlogits = weights * (
      jnp.einsum('bnd,bld->bnl', dy, v32)
      - jnp.einsum('bnd,bnd->bn', dy, y)[..., None]
    )
    dq = jnp.einsum('bnl,bld->bnd', dlogits, k32) * scale
    dk = turned(q.astype(jnp.float32), dlogits) * scale
    return (sums[0] + dk, sums[1] + turned(dy, weights)), dq

  at_once = _BLOCK_ELEMENTS // k.shape[1]
  queries = _blocks((q, y, log_sums, dy), at_once, causal)
  nothing = jnp.zeros_like(k32), jnp.zeros_like(v32)
  (dk, dv), dq = jax.lax.scan(of_queries, nothing, queries)
  grads = _joined(dq), dk, dv
  return tuple(g.astype(x.dtype) for g, x in zip(grads, (q, k, v)))


_head.defvjp(_forward, _backward)


def _blocks(xs, at_most: int, whole: bool):
  """Each [1 N ..] -> [blocks 1 N/blocks ..], halved until small enough."""
  size, blocks = xs[0].shape[1], 1
  while not whole and size > at_most and size % 2 == 0:
    size, blocks = size // 2, 2 * blocks
  split = lambda x: x.reshape(x.shape[0], blocks, size, *x.shape[2:])
  return tuple(split(x).swapaxes(0, 1) for x in xs)


def _joined(x):
  """[blocks 1 n ..] -> [1 N ..]."""
  x = x.swapaxes(0, 1)
  return x.reshape(x.shape[0], -1, *x.shape[3:])
