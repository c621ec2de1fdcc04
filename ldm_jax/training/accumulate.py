"""Gradients of a batch too large for memory, summed over its parts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.types import Array, Batch, Params


def accumulated_grad(
  loss_fn: Callable, params: Params, batch: Batch, rng: Array, parts: int
) -> tuple[Params, dict]:
  """Mean gradient and metrics of `parts` microbatches, one after another.

  loss_fn(params, batch, rng) -> (scalar mean loss, metrics). Each microbatch
  takes every parts-th example, so that it stays spread over all devices as the
  whole batch is.
  """
  grad = jax.grad(loss_fn, has_aux=True)
  if parts == 1:
    return grad(params, batch, rng)

  deal = lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
  microbatches = jax.tree.map(deal, dict(batch))
  rngs = jax.random.split(rng, parts)

  def body(total, xs):
    microbatch, rng = xs
    return jax.tree.map(jnp.add, total, grad(params, microbatch, rng)), None

  first = jax.tree.map(lambda x: x[0], microbatches)
  shapes = jax.eval_shape(grad, params, first, rngs[0])
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  total, _ = jax.lax.scan(body, zeros, (microbatches, rngs))
  return jax.tree.map(lambda x: x / parts, total)
