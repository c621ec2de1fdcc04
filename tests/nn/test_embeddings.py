"""Tests for ldm_jax.nn.embeddings."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.nn.embeddings import MLP, timestep_embedding


def test_the_formula():
  t = np.array([0, 1, 250, 999])
  frequency = 10_000.0 ** -(np.arange(16) / 16)
  angle = t[:, None] * frequency
  expected = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
  np.testing.assert_allclose(
    timestep_embedding(jnp.asarray(t), 32), expected, atol=2e-4
  )


def test_time_zero_is_ones_and_then_zeros():
  embedding = timestep_embedding(jnp.zeros(1), 8)[0]
  np.testing.assert_array_equal(embedding, [1, 1, 1, 1, 0, 0, 0, 0])


def test_an_odd_width_ends_on_a_zero():
  embedding = timestep_embedding(jnp.arange(5), 9)
  np.testing.assert_array_equal(embedding[:, :8], timestep_embedding(
    jnp.arange(5), 8
  ))  # fmt: skip
  np.testing.assert_array_equal(embedding[:, 8], np.zeros(5))


def test_it_is_float32_and_tells_all_timesteps_apart():
  embedding = timestep_embedding(jnp.arange(1000, dtype=jnp.int32), 32)
  assert embedding.dtype == jnp.float32
  assert len(np.unique(np.asarray(embedding), axis=0)) == 1000


def test_mlp_is_dense_silu_dense():
  x = jax.random.normal(jax.random.key(0), (3, 4))
  y, params = MLP(6).init_with_output(jax.random.key(1), x)
  one, two = params['params']['dense1'], params['params']['dense2']
  hidden = x @ one['kernel'] + one['bias']
  hidden = hidden / (1 + np.exp(-hidden))
  expected = hidden @ two['kernel'] + two['bias']
  np.testing.assert_allclose(y, expected, atol=1e-5)
