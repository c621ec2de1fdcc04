"""Tests for ldm_jax.diffusion.ddim."""

import numpy as np
import pytest

from ldm_jax.diffusion import ddim, sampling, schedule
from ldm_jax.types import UserError
from tests.diffusion import oracles

SCHEDULE = schedule.make('linear', 100, 0.0015, 0.0195)
ALL = sampling.levels(SCHEDULE, 100)


def test_eta_one_over_all_steps_is_ddpm():
  """Ho et al. 2020, Eqs. 6 and 7 with 11: posterior variance and mean."""
  steps = ddim.ddim(ALL, eta=1.0)
  a = SCHEDULE.alpha_bar[::-1]
  a_before = np.append(a[1:], 1.0)
  beta = 1 - a / a_before
  variance = (1 - a_before) / (1 - a) * beta
  np.testing.assert_allclose(steps.noise**2, variance, atol=1e-7)
  c_z, c_eps = steps.mix[:, 0, 0], steps.mix[:, 0, 1]
  np.testing.assert_allclose(c_z, 1 / np.sqrt(1 - beta), rtol=1e-6)
  expected = -beta / np.sqrt(1 - a) / np.sqrt(1 - beta)
  np.testing.assert_allclose(c_eps, expected, rtol=1e-4, atol=1e-6)


def test_eta_zero_adds_no_noise():
  assert not np.any(ddim.ddim(ALL).noise)


@pytest.mark.parametrize('eta', [0.0, 0.4, 1.0])
@pytest.mark.parametrize('std', [0.5, 2.0])
def test_every_eta_keeps_the_spread_of_gaussian_data(eta, std):
  """To first order: twice the steps, half the error."""
  solver = lambda levels: ddim.ddim(levels, eta)
  errors = oracles.std_errors(solver, std, (100, 200, 400))
  np.testing.assert_allclose(errors[:-1] / errors[1:], 2, atol=0.1)
  assert abs(errors[-1]) < 0.01


def test_it_converges_at_first_order():
  np.testing.assert_allclose(oracles.orders(ddim.ddim)[1:], 1, atol=0.15)


# The names that others gave to it.


def test_euler_s_method_is_ddim():
  """In z / alpha and sigma / alpha, as Karras et al. write it."""
  steps = ddim.euler(ALL)
  sigma = np.append(np.sqrt(1 / SCHEDULE.alpha_bar - 1)[::-1], 0.0)
  signal = np.append(SCHEDULE.alpha_bar[::-1], 1.0) ** 0.5
  c_z, c_eps = steps.mix[:, 0].T
  np.testing.assert_allclose(c_z, signal[1:] / signal[:-1])
  np.testing.assert_allclose(c_eps, signal[1:] * np.diff(sigma), atol=1e-12)
  assert not np.any(steps.noise)


def test_ancestral_sampling_is_ddim_with_all_its_noise():
  """Down to sigma_down by Euler, and up again by noise of sigma_up."""
  steps = ddim.euler_ancestral(ALL)
  sigma = np.append(np.sqrt(1 / SCHEDULE.alpha_bar - 1)[::-1], 0.0)
  signal = np.append(SCHEDULE.alpha_bar[::-1], 1.0) ** 0.5
  here, there = sigma[:-1], sigma[1:]
  up = there * np.sqrt(here**2 - there**2) / here
  down = np.sqrt(there**2 - up**2)
  c_z, c_eps = steps.mix[:, 0].T
  np.testing.assert_allclose(c_z, signal[1:] / signal[:-1])
  np.testing.assert_allclose(c_eps, signal[1:] * (down - here), atol=1e-12)
  np.testing.assert_allclose(steps.noise, signal[1:] * up, atol=1e-12)
  for field in ('mix', 'noise', 't'):
    np.testing.assert_array_equal(
      getattr(steps, field), getattr(ddim.ddpm(ALL), field)
    )


@pytest.mark.parametrize('eta', [-0.1, 1.1])
def test_eta_outside_is_an_error(eta):
  with pytest.raises(UserError, match=f'eta={eta}'):
    ddim.ddim(ALL, eta)


@pytest.mark.parametrize('name', ['ddpm', 'euler', 'euler_ancestral'])
def test_only_ddim_itself_has_an_eta(name):
  with pytest.raises(UserError, match=f"eta=0.5: sampler='{name}' has none"):
    getattr(ddim, name)(ALL, 0.5)
