"""Tests for ldm_jax.first_stage.quantize."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.first_stage import quantize


def random(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def test_nearest_is_the_exhaustive_search():
  z, codebook = random(0, 2, 4, 4, 3), random(1, 32, 3)
  distance = np.square(np.asarray(z)[..., None, :] - np.asarray(codebook))
  np.testing.assert_array_equal(
    quantize.nearest(z, codebook), distance.sum(-1).argmin(-1)
  )


@pytest.mark.parametrize('elements', [1, 300, 1000])
def test_walking_the_codebook_in_parts_changes_nothing(monkeypatch, elements):
  z, codebook = random(0, 2, 4, 4, 3), random(1, 32, 3)
  # A twin in the other half: the first of equals wins however it is walked.
  codebook = codebook.at[20].set(codebook[4])
  whole = quantize.nearest(z, codebook)
  monkeypatch.setattr(quantize, '_TABLE_ELEMENTS', elements)
  np.testing.assert_array_equal(quantize.nearest(z, codebook), whole)
  assert not (whole == 20).any()


def test_codes_are_their_own_nearest():
  codebook = random(1, 100, 4)
  np.testing.assert_array_equal(
    quantize.nearest(codebook, codebook), np.arange(100)
  )


def test_straight_through_is_the_code_forward_and_the_identity_backward():
  z, quantized, weights = (random(i, 5, 3) for i in range(3))
  np.testing.assert_allclose(
    quantize.straight_through(z, quantized), quantized, atol=1e-6
  )
  loss = lambda z, q: jnp.sum(weights * quantize.straight_through(z, q))
  to_z, to_code = jax.grad(loss, (0, 1))(z, quantized)
  np.testing.assert_array_equal(to_z, weights)
  np.testing.assert_array_equal(to_code, 0)


def test_perplexity_and_usage_count_codes():
  even = quantize.code_shares(jnp.arange(8).reshape(2, 4), 16)
  np.testing.assert_allclose(even.sum(), 1)
  np.testing.assert_allclose(quantize.perplexity(even), 8, rtol=1e-6)
  np.testing.assert_allclose(quantize.usage(even), 0.5)
  one = quantize.code_shares(jnp.full((2, 4), 3), 16)
  np.testing.assert_allclose(quantize.perplexity(one), 1, rtol=1e-6)
  np.testing.assert_allclose(quantize.usage(one), 1 / 16)


def test_the_codebook_starts_between_minus_and_plus_one_nth():
  codebook = quantize.Codebook(num_codes=64, dim=4)
  z = random(0, 1, 2, 2, 4)
  table = codebook.init(jax.random.key(0), z)['params']['embedding']
  assert table.shape == (64, 4)
  assert 0.9 / 64 < np.abs(table).max() <= 1 / 64
  assert table.min() < -0.9 / 64


def test_a_code_that_nothing_is_near_gets_no_gradient():
  codebook = quantize.Codebook(num_codes=3, dim=2)
  table = jnp.array([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]])
  z = jnp.array([[[[0.1, 0.1], [0.9, 0.9]]]])

  def loss(table):
    quantized, _ = codebook.apply({'params': {'embedding': table}}, z)
    return jnp.sum(jnp.square(quantized - z))

  grad = jax.grad(loss)(table)
  # Descent moves each code in use towards its latent.
  assert (grad[0] < 0).all() and (grad[1] > 0).all() and (grad[2] == 0).all()
