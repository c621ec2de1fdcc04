"""Gradients of a batch too large for memory, summed over its parts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ldm_jax.training import optim
from ldm_jax.types import Array, Batch, Params


def dealt(tree: Any, parts: int) -> Any:
  """Arrays [B ...] -> [parts B/parts ...].

  Each part takes every parts-th example, so that it stays spread over all
  devices as the whole batch is.
  """
  deal = lambda x: jnp.swapaxes(
    x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1
  )
  return jax.tree.map(deal, tree)


def scan_mean(body: Callable, carry: Any, xs: Any) -> tuple[Any, Any]:
  """Scans body(carry, x) -> (carry, out); (the last carry, the mean out).

  One out is held at a time. A single x is not scanned.
  """
  count = jax.tree.leaves(xs)[0].shape[0]
  first = jax.tree.map(lambda x: x[0], xs)
  if count == 1:
    return body(carry, first)
  shapes = jax.eval_shape(lambda: body(carry, first)[1])
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def add(state, x):
    carry, sums = state
    carry, out = body(carry, x)
    return (carry, jax.tree.map(jnp.add, sums, out)), None

  (carry, sums), _ = jax.lax.scan(add, (carry, zeros), xs)
  return carry, jax.tree.map(lambda x: x / count, sums)


def accumulated_grad(
  loss_fn: Callable, params: Params, batch: Batch, rng: Array, parts: int
) -> tuple[Params, dict]:
  """Mean gradient and metrics of `parts` microbatches, one after another.

  loss_fn(params, batch, rng) -> (scalar mean loss, metrics); the metrics gain
  'grad_norm'.
  """
  grad = jax.grad(loss_fn, has_aux=True)
  if parts == 1:
    grads, metrics = grad(params, batch, rng)
  else:
    body = lambda carry, x: (carry, grad(params, *x))
    xs = dealt(dict(batch), parts), jax.random.split(rng, parts)
    grads, metrics = scan_mean(body, (), xs)[1]
  return grads, {**metrics, 'grad_norm': optim.global_norm(grads)}


def descend(
  tx: optax.GradientTransformation,
  grads: Params,
  opt_state: optax.OptState,
  params: Params,
) -> tuple[Params, optax.OptState]:
  """(params, opt_state) one step on."""
  updates, opt_state = tx.update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state
