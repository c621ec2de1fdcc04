"""Tests for ldm_jax.diffusion.prediction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import schedule
from ldm_jax.diffusion.loss import add_noise
from ldm_jax.diffusion.prediction import PREDICTIONS, as_denoiser
from tests.diffusion.oracles import at

SCHEDULE = schedule.make('linear', 100, 0.0015, 0.0195)
Z_0, EPS = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 3))
T = jnp.array([0, 50, 99])
TRUTH = {
  'eps': EPS,
  'x0': Z_0,
  'v': at(SCHEDULE.signal, T) * EPS - at(SCHEDULE.noise, T) * Z_0,
}


@pytest.mark.parametrize('kind', PREDICTIONS)
def test_the_truth_of_every_kind_is_the_same_noise(kind):
  z_t = add_noise(SCHEDULE, Z_0, T, EPS)
  denoise = as_denoiser(lambda z, t: TRUTH[kind], kind, SCHEDULE)
  # Near the data, z_0 says little about eps: rounding is magnified by 25.
  np.testing.assert_allclose(denoise(z_t, T), EPS, atol=2e-5)


def test_an_eps_network_is_left_as_it_is():
  predict = lambda z, t: z
  assert as_denoiser(predict, 'eps', SCHEDULE) is predict


@pytest.mark.parametrize('kind', ['v', 'x0'])
def test_a_timestep_without_signal_still_tells_z_0(kind):
  """What an eps cannot: at the last timestep z_t is noise alone."""
  zero = schedule.make('linear', 100, zero_terminal_snr=True)
  t = jnp.full(3, 99)
  z_t = add_noise(zero, Z_0, t, EPS)
  np.testing.assert_allclose(z_t, EPS, atol=1e-3)
  out = {'v': zero.signal[99] * EPS - zero.noise[99] * Z_0, 'x0': Z_0}[kind]
  eps = as_denoiser(lambda z, t: out, kind, zero)(z_t, t)
  signal, noise = zero.at(t)
  np.testing.assert_allclose((z_t - noise * eps) / signal, Z_0, atol=2e-3)


def test_between_timesteps():
  t = jnp.array([0.5, 49.75, 98.1])
  signal, noise = SCHEDULE.at(t)
  z_t = signal * Z_0 + noise * EPS
  for kind, out in {'x0': Z_0, 'v': signal * EPS - noise * Z_0}.items():
    denoise = as_denoiser(lambda z, t, out=out: out, kind, SCHEDULE)
    np.testing.assert_allclose(denoise(z_t, t), EPS, atol=5e-5)
