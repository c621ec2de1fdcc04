"""Winograd's convolutions are convolutions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from ldm_jax.nn import winograd


def direct(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), ((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )  # fmt: skip


def draw(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
  ('tile', 'shape'),
  [
    (2, (1, 4, 4, 3)),
    (2, (2, 6, 8, 5)),
    (2, (3, 2, 2, 1)),
    (4, (1, 8, 8, 3)),
    (4, (2, 12, 4, 5)),
    (4, (3, 4, 4, 1)),
  ],
)
def test_forward_and_both_gradients(tile, shape):
  x, kernel = draw(*shape), draw(3, 3, shape[-1], 7, seed=1)
  dy = draw(*shape[:-1], 7, seed=2)

  @jax.jit
  def value_and_gradients(x, kernel, dy):
    found = []
    for conv in (functools.partial(winograd.conv3x3, tile=tile), direct):
      y, pull = jax.vjp(conv, x, kernel)
      found.append((y, *pull(dy)))
    return found

  (y, *ours), (expected, *theirs) = value_and_gradients(x, kernel, dy)
  np.testing.assert_allclose(y, expected, atol=2e-5)
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, atol=5e-5)


@pytest.mark.parametrize(('tile', 'worst'), [(2, 5e-6), (4, 2e-5)])
def test_rounding_is_float32_s(tile, worst):
  """In standard deviations, at a width where it adds up."""
  x, kernel = draw(1, 16, 16, 256), draw(3, 3, 256, 32, seed=1)
  padded = np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
  met = sliding_window_view(padded, (3, 3), (1, 2))  # [1 16 16 256 3 3]
  exact = np.einsum('bhwcij,ijcd->bhwd', met, np.float64(kernel))
  y = jax.jit(functools.partial(winograd.conv3x3, tile=tile))(x, kernel)
  error = np.abs(y - exact).max() / exact.std()
  assert 1e-7 < error < worst


@pytest.mark.parametrize('tile', [2, 4])
def test_the_transforms_are_winograd_s(tile):
  """Lavin & Gray's (2): A'(Gg * B'd), of one dimension, is a convolution."""
  found = winograd._transforms(tile)
  rng = np.random.default_rng(0)
  d, g = rng.normal(size=tile + 2), rng.normal(size=3)
  n = tile + 2
  # Both sides at once are the products of one side's.
  one = found.kernels.reshape(n, n, 3, 3)[-1, :, -1]
  y = found.outputs @ ((one @ g) * (found.inputs @ d))
  np.testing.assert_allclose(y, np.correlate(d, g, 'valid'), atol=1e-12)
