"""Winograd's convolutions are convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn import winograd


def direct(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), ((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )  # fmt: skip


def draw(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize('shape', [(1, 4, 4, 3), (2, 6, 8, 5), (3, 2, 2, 1)])
def test_forward_and_both_gradients(shape):
  x, kernel = draw(*shape), draw(3, 3, shape[-1], 7, seed=1)
  dy = draw(*shape[:-1], 7, seed=2)

  @jax.jit
  def value_and_gradients(x, kernel, dy):
    found = []
    for conv in (winograd.conv3x3, direct):
      y, pull = jax.vjp(conv, x, kernel)
      found.append((y, *pull(dy)))
    return found

  (y, *ours), (expected, *theirs) = value_and_gradients(x, kernel, dy)
  np.testing.assert_allclose(y, expected, atol=2e-5)
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, atol=5e-5)


def test_rounding_is_float32_s():
  """A few 1e-6 of the standard deviation, at a width where it adds up."""
  x, kernel = draw(1, 16, 16, 256), draw(3, 3, 256, 32, seed=1)
  exact = jax.lax.conv_general_dilated(
    np.asarray(x, np.float64), np.asarray(kernel, np.float64), (1, 1),
    ((1, 1), (1, 1)), dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision='highest',
  )  # fmt: skip
  error = jnp.abs(jax.jit(winograd.conv3x3)(x, kernel) - exact).max()
  assert error < 1e-5 * exact.std()
