"""Tests for ldm_jax.diffusion.thresholding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import sampling, schedule
from ldm_jax.diffusion.dpm_solver import dpmpp_2m
from ldm_jax.diffusion.thresholding import dynamic_threshold
from tests.diffusion import oracles

SCHEDULE = schedule.make('linear', 100)
Z_0 = 3 * jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
Z = jax.random.normal(jax.random.key(1), Z_0.shape)
T = jnp.array([20, 90])


def limited(z_0, share, bound):
  """The z_0_hat that a thresholded, perfect denoiser has."""
  denoise = dynamic_threshold(
    oracles.one_point(SCHEDULE, z_0), SCHEDULE, share, bound
  )
  signal, noise = SCHEDULE.at(T)
  return np.asarray((Z - noise * denoise(Z, T)) / signal)


@pytest.mark.parametrize('bound', [1.0, 2.5])
def test_the_quantile_of_each_example_becomes_the_bound(bound):
  result = limited(Z_0 * jnp.array([1.0, 2.0])[:, None, None, None], 0.9, bound)
  np.testing.assert_allclose(np.abs(result).max((1, 2, 3)), bound, rtol=1e-3)
  at_bound = np.mean(np.abs(result) > 0.999 * bound, axis=(1, 2, 3))
  np.testing.assert_allclose(at_bound, 0.1, atol=0.01)
  # The rest keeps its proportions, and so do examples of one another.
  np.testing.assert_allclose(result[1], limited(Z_0, 0.9, bound)[1], atol=1e-3)


def test_data_within_its_range_is_left_as_it_is():
  z_0 = jnp.tanh(Z_0)
  np.testing.assert_allclose(limited(z_0, 0.5, 1.0), z_0, atol=1e-4)


def test_a_share_of_one_shrinks_and_clips_nothing():
  peak = np.abs(Z_0).max((1, 2, 3), keepdims=True)
  np.testing.assert_allclose(limited(Z_0, 1.0, 1.0), Z_0 / peak, atol=1e-4)


def test_samples_end_within_the_range():
  keys = sampling.image_keys(0, 0, 2)
  table = dpmpp_2m(sampling.levels(SCHEDULE, 6))
  denoise = oracles.one_point(SCHEDULE, Z_0)
  z = sampling.sample(
    dynamic_threshold(denoise, SCHEDULE, 0.995, 1.0), table, Z, keys
  )
  assert np.abs(z).max() <= 1 + 1e-4
