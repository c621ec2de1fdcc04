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
def test_every_eta_keeps_the_variance_of_gaussian_data(eta, std):
  """Steps are of a size at which the solver's own error is small."""
  fine = schedule.make('linear', 1000, 0.0015, 0.0195)
  levels = sampling.levels(fine, 1000)
  steps = ddim.ddim(levels, eta)
  t = np.asarray(steps.t)
  signal, noise = np.asarray(fine.signal)[t], np.asarray(fine.noise)[t]
  gain = noise / (signal**2 * std**2 + noise**2)
  variance = oracles.gaussian_std(fine.alpha_bar[-1], std) ** 2
  mix = np.asarray(steps.mix, np.float64)
  for i in range(len(t)):
    factor = mix[i, 0, 0] + mix[i, 0, 1] * gain[i]
    variance = factor**2 * variance + float(steps.noise[i]) ** 2
  np.testing.assert_allclose(variance**0.5, std, rtol=0.03)


def test_it_converges_at_first_order():
  ratios = halving_ratios(ddim.ddim, std=1.5)
  np.testing.assert_allclose(ratios, 2, atol=0.2)


def halving_ratios(solver, std, sigma=None):
  """How the error shrinks each time the step is halved, on Gaussian data.

  The probability flow of such data is known: it scales with the standard
  deviation. Steps are even in t, from 960 to 0, where noise is left: at the
  data itself the flow is singular.
  """
  if sigma is None:
    alpha_bar = schedule.make('linear', 1000, 0.0015, 0.0195).alpha_bar[39:]
  else:
    alpha_bar = 1 / (1 + sigma**2)
  curve = schedule.Schedule(alpha_bar=alpha_bar)
  gain = lambda t: (
    np.asarray(curve.noise, np.float64)[t]
    / oracles.gaussian_std(alpha_bar[t], std) ** 2
  )
  errors = []
  for num_steps in (12, 24, 48):
    size = 960 // num_steps
    t = size * np.arange(1, num_steps + 1)
    steps = solver(
      sampling.Levels(
        t=t, alpha_bar=alpha_bar[t], alpha_bar_next=alpha_bar[t - size]
      )
    )
    # The recurrence of `sampling.sample`, in float64.
    state = np.zeros(steps.mix.shape[1])
    state[0] = 1.0
    for t, mix in zip(np.asarray(steps.t), np.asarray(steps.mix, np.float64)):
      state = mix @ np.append(state, gain(t) * state[0])
    exact = oracles.gaussian_std(alpha_bar[0], std) / oracles.gaussian_std(
      alpha_bar[960], std
    )
    errors.append(state[0] / exact - 1)
  return [a / b for a, b in zip(errors, errors[1:])]


@pytest.mark.parametrize('eta', [-0.1, 1.1])
def test_eta_outside_is_an_error(eta):
  with pytest.raises(UserError, match=f'eta={eta}'):
    ddim.ddim(ALL, eta)
