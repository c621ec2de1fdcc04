"""Accumulated gradients are those of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.training.accumulate import accumulated_grad, dealt

PARAMS = {'w': jnp.array([0.5, -1.0, 2.0])}
BATCH = {'x': jax.random.normal(jax.random.key(0), (12, 3))}


def loss(params, batch, rng):
  del rng
  value = jnp.mean(jnp.sin(batch['x'] @ params['w']) ** 2)
  return value, {'loss': value}


@pytest.mark.parametrize('parts', [2, 3, 12])
def test_parts_add_up_to_the_whole(parts):
  rng = jax.random.key(1)
  whole = accumulated_grad(loss, PARAMS, BATCH, rng, 1)
  split = jax.jit(accumulated_grad, static_argnums=(0, 4))(
    loss, PARAMS, BATCH, rng, parts
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, split
  )


def test_parts_of_a_batch_are_spread_over_it():
  """Contiguous slices would leave all but one device without work."""
  parts = dealt(jnp.arange(8), 2)
  np.testing.assert_array_equal(parts, [[0, 2, 4, 6], [1, 3, 5, 7]])


def test_every_part_draws_its_own_noise():
  def noise(params, batch, rng):
    value = params['w'][0] * jax.random.normal(rng)
    return value, {'square': jnp.square(value)}

  grad, metrics = accumulated_grad(noise, PARAMS, BATCH, jax.random.key(1), 12)
  # Equal draws would make the mean square the square of the mean.
  assert metrics['square'] > 1.1 * jnp.square(0.5 * grad['w'][0])
