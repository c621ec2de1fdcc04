"""Tests for ldm_jax.diffusion.plms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import ddim, plms, sampling, schedule
from ldm_jax.types import UserError
from tests.diffusion import oracles

SCHEDULE = schedule.make('linear', 100, 0.0015, 0.0195)
LEVELS = sampling.levels(SCHEDULE, 10)


def test_the_denoiser_is_asked_once_more_than_there_are_steps():
  steps = plms.plms(LEVELS)
  assert steps.t.tolist() == [90, 80, 80, 70, 60, 50, 40, 30, 20, 10, 0]
  assert not np.any(steps.noise)


def test_it_converges_at_second_order():
  """The weights suppose even steps, which the noise level's are not."""
  assert min(oracles.orders(plms.plms)) > 1.7


def test_where_the_noise_level_is_even_it_converges_faster():
  """On Gaussian data, whose flow scales with the standard deviation."""
  errors = [gaussian_error(count) for count in (12, 24, 48)]
  assert min(np.abs(np.array(errors[:-1]) / errors[1:])) > 7


def gaussian_error(count):
  alpha_bar = 1 / (1 + np.linspace(0.2, 4.0, count + 1) ** 2)
  std = oracles.gaussian_std(alpha_bar, 0.5)
  gain = np.sqrt(1 - alpha_bar) / std**2
  steps = plms.plms(oracles.between(alpha_bar))
  result = oracles.follow(steps, np.ones(1), lambda z, t: gain[int(t)] * z)
  return result[0] * std[-1] / std[0] - 1


def test_a_constant_answer_makes_it_ddim():
  """Every row of weights sums to one."""
  keys = sampling.image_keys(0, 0, 2)
  z = sampling.initial_noise(keys, (4, 4, 3))
  constant = lambda z, t: jnp.ones_like(z) * 0.3
  run = lambda steps: sampling.sample(constant, steps, z, keys)
  np.testing.assert_allclose(
    run(plms.plms(LEVELS)), run(ddim.ddim(LEVELS)), rtol=1e-5, atol=1e-5
  )


def test_it_is_the_recurrence_that_the_release_runs():
  """Spelled out with lists, as multistep methods are."""
  keys = sampling.image_keys(1, 0, 1)
  z = sampling.initial_noise(keys, (4, 4, 3))
  denoise = lambda z, t: jnp.sin(2 * z) * jnp.cos(t / 30.0)[:, None, None, None]
  c_z, c_eps, _ = (c[::-1] for c in ddim.coefficients(LEVELS))
  ask = lambda z, t: denoise(z, jnp.full(1, t))
  t = LEVELS.t[::-1]

  expected, past = z, []
  for i in range(10):
    e = ask(expected, t[i])
    if i == 0:
      tried = c_z[0] * expected + c_eps[0] * e
      mean = (e + ask(tried, t[1])) / 2
    elif i == 1:
      mean = (3 * e - past[-1]) / 2
    elif i == 2:
      mean = (23 * e - 16 * past[-1] + 5 * past[-2]) / 12
    else:
      mean = (55 * e - 59 * past[-1] + 37 * past[-2] - 9 * past[-3]) / 24
    past.append(e)
    expected = c_z[i] * expected + c_eps[i] * mean
  result = jax.jit(sampling.sample, static_argnums=0)(
    denoise, plms.plms(LEVELS), z, keys
  )
  np.testing.assert_allclose(result, expected, atol=1e-4)


def test_eta_is_refused():
  with pytest.raises(UserError, match='eta=0.5'):
    plms.plms(LEVELS, 0.5)


@pytest.mark.parametrize('spacing', ['karras', 'log_snr'])
def test_uneven_timesteps_are_refused(spacing):
  levels = sampling.levels(SCHEDULE, 10, spacing)
  with pytest.raises(UserError, match='evenly spaced timesteps'):
    plms.plms(levels)
  for count in (1, 2, 7, 30, 99):
    plms.plms(sampling.levels(SCHEDULE, count, 'trailing'))
