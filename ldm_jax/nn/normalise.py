"""Group normalisation, with a gradient of its own.

Sums over an image go channel by channel, along memory, and only then over the
few channels of a group. Differentiated as written, the mean and the variance
ask for five such sums more; the rule below needs two.
"""

import functools

import jax
import jax.numpy as jnp

from ldm_jax.types import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm(
  x: Array, scale: Array, bias: Array, groups: int, epsilon: float
) -> Array:
  """x [B .. C], scale and bias [C] -> float32 [B .. C] (Wu & He 2018).

  `groups` divides C. All arithmetic is float32. Forward mode (`jax.jvp`) is
  refused, as by any `jax.custom_vjp`.
  """
  y, _ = _forward(x, scale, bias, groups, epsilon)
  return y


def _forward(x, scale, bias, groups, epsilon):
  flat = _flat(x)
  mean = _over_groups(jnp.mean(flat, 1), groups)
  centred = flat - mean[:, None]
  # Two passes: E[x^2] - E[x]^2 loses what parity at 1e-4 needs.
  var = _over_groups(_dot(centred, centred) / flat.shape[1], groups)
  rstd = jax.lax.rsqrt(var + epsilon)
  y = centred * (rstd * scale)[:, None] + bias
  return y.reshape(x.shape), (x, scale, mean, rstd)


def _backward(groups, epsilon, residuals, dy):
  del epsilon
  x, scale, mean, rstd = residuals
  centred, dy = _flat(x) - mean[:, None], _flat(dy)
  # Of each image and channel: sums of dy, and of dy times what was normalised.
  plain = jnp.sum(dy, 1)
  along = _dot(dy, centred) * rstd
  sums = jnp.stack([plain, along])
  plain_share, along_share = _over_groups(sums * scale, groups) / dy.shape[1]
  dx = rstd[:, None] * (
    dy * scale - plain_share[:, None] - centred * (rstd * along_share)[:, None]
  )
  dscale, dbias = jnp.sum(along, 0), jnp.sum(plain, 0)
  return dx.reshape(x.shape).astype(x.dtype), dscale, dbias


group_norm.defvjp(_forward, _backward)


def _flat(x: Array) -> Array:
  """[B .. C] -> float32 [B N C]."""
  return x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])


def _dot(x: Array, y: Array) -> Array:
  """[B N C], [B N C] -> [B C]: sums of products over N.

  As a product of arrays and a sum, XLA's CPU compiler takes 20 times as long.
  Accelerators round what they multiply, unless told not to.
  """
  return jnp.einsum('bnc,bnc->bc', x, y, precision=jax.lax.Precision.HIGHEST)


def _over_groups(x: Array, groups: int) -> Array:
  """[.. C] -> [.. C]: every channel gets the mean of its group."""
  grouped = x.reshape(*x.shape[:-1], groups, -1)
  mean = jnp.mean(grouped, -1, keepdims=True)
  return jnp.broadcast_to(mean, grouped.shape).reshape(x.shape)
