"""Group and layer normalisation, with gradients of their own.

A group norm's sums over an image go channel by channel, along memory, and only
then over the few channels of a group. Differentiated as written, its mean and
variance ask for five such sums more; the rule below needs two. A layer norm's
rule is flax's norm in a ninth to a quarter of the time, for one image on a CPU.
"""

import functools

import jax
import jax.numpy as jnp

from ldm_jax.nn import target
from ldm_jax.types import Array

# Accelerators round what they multiply, unless told not to.
_EXACT = jax.lax.Precision.HIGHEST


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm(
  x: Array, scale: Array, bias: Array, groups: int, epsilon: float
) -> Array:
  """x [B .. C], scale and bias [C] -> float32 [B .. C] (Wu & He 2018).

  `groups` divides C. All arithmetic is float32. Forward mode (`jax.jvp`) is
  refused, as by any `jax.custom_vjp`.
  """
  y, _ = _group_forward(x, scale, bias, groups, epsilon)
  return y


@functools.partial(jax.jit, static_argnums=(3, 4), inline=True)
def _group_forward(x, scale, bias, groups, epsilon):
  flat = _flat(x)
  mean = _over_groups(jnp.mean(flat, 1), groups)
  centred = flat - mean[:, None]
  # Two passes: E[x^2] - E[x]^2 loses what parity at 1e-4 needs.
  var = _over_groups(_dot(centred, centred) / flat.shape[1], groups)
  rstd = jax.lax.rsqrt(var + epsilon)
  y = centred * (rstd * scale)[:, None] + bias
  return y.reshape(x.shape), (x, scale, mean, rstd)


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _group_backward(groups, epsilon, residuals, dy):
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


group_norm.defvjp(_group_forward, _group_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
  """x [.. C], scale and bias [C] -> float32 [.. C] (Ba et al. 2016).

  All arithmetic is float32. Forward mode is refused, as by `group_norm`.
  """
  y, _ = _layer_forward(x, scale, bias, epsilon)
  return y


def _layer_forward(x, scale, bias, epsilon):
  x32 = x.astype(jnp.float32)
  mean = jnp.mean(x32, -1, keepdims=True)
  centred = x32 - mean
  rstd = jax.lax.rsqrt(_share(centred, centred) + epsilon)
  if target.is_cpu():
    # Without it XLA hands YNNPACK the sums and the dense layer that follows as
    # one, and the layer takes up to half as long again.
    rstd = jax.lax.optimization_barrier(rstd)
  return centred * rstd * scale + bias, (x, scale, mean, rstd)


def _layer_backward(epsilon, residuals, dy):
  del epsilon
  x, scale, mean, rstd = residuals
  normal = (x.astype(jnp.float32) - mean) * rstd
  slope = dy * scale
  plain_share = jnp.mean(slope, -1, keepdims=True)
  dx = rstd * (slope - plain_share - normal * _share(slope, normal))
  dy, normal = _flat(dy[None]), _flat(normal[None])
  dscale, dbias = _dot(dy, normal)[0], jnp.sum(dy[0], 0)
  return dx.astype(x.dtype), dscale, dbias


layer_norm.defvjp(_layer_forward, _layer_backward)


def _flat(x: Array) -> Array:
  """[B .. C] -> float32 [B N C]."""
  return x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])


def _dot(x: Array, y: Array) -> Array:
  """[B N C], [B N C] -> [B C]: sums of products over N.

  As a product of arrays and a sum, XLA's CPU compiler takes 20 times as long.
  """
  return jnp.einsum('bnc,bnc->bc', x, y, precision=_EXACT)


def _share(x: Array, y: Array) -> Array:
  """[.. C], [.. C] -> [.. 1]: means of products."""
  total = jnp.einsum('...c,...c->...', x, y, precision=_EXACT)
  return total[..., None] / x.shape[-1]


def _over_groups(x: Array, groups: int) -> Array:
  """[.. C] -> [.. C]: every channel gets the mean of its group."""
  grouped = x.reshape(*x.shape[:-1], groups, -1)
  mean = jnp.mean(grouped, -1, keepdims=True)
  return jnp.broadcast_to(mean, grouped.shape).reshape(x.shape)
