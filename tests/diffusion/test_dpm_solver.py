"""Tests for ldm_jax.diffusion.dpm_solver."""

import numpy as np
import pytest

from ldm_jax.diffusion import ddim, dpm_solver, sampling, schedule
from ldm_jax.types import UserError
from tests.diffusion import oracles, solver_errors

LEVELS = sampling.levels(schedule.make('linear', 1000), 10, 'log_snr')


def test_it_converges_at_second_order():
  np.testing.assert_allclose(oracles.orders(dpm_solver.dpmpp_2m), 2, atol=0.1)


def test_fifteen_steps_are_closer_to_the_limit_than_fifty_of_ddim():
  """Whatever spacing DDIM takes; about half as far."""
  fifteen = solver_errors.error('dpmpp_2m', 'log_snr', 15)
  for spacing in ('leading', 'trailing', 'karras', 'log_snr'):
    assert fifteen < 0.6 * solver_errors.error('ddim', spacing, 50), spacing


@pytest.mark.parametrize('std', [0.5, 2.0])
def test_the_stochastic_one_ends_with_the_spread_of_the_data(std):
  """At second order too: weakly, since paths are random."""
  errors = oracles.std_errors(
    dpm_solver.dpmpp_2m_sde, std, (64, 128, 256), ends=(2, -2)
  )
  assert min(errors[:-1] / errors[1:]) > 3.3
  assert abs(errors[-1]) < 2e-3


def test_a_constant_z_0_is_reached_in_any_number_of_steps():
  steps = dpm_solver.dpmpp_2m(LEVELS)
  level = dict(zip(LEVELS.t, LEVELS.alpha_bar))
  eps_at = lambda z, t: (z - level[t] ** 0.5 * 0.3) / np.sqrt(1 - level[t])
  z = np.random.default_rng(0).normal(size=(5, 3))
  np.testing.assert_allclose(oracles.follow(steps, z, eps_at), 0.3)


def test_its_first_and_last_steps_are_ddim_s():
  """In between it looks back; before the data h is infinite."""
  ours, theirs = dpm_solver.dpmpp_2m(LEVELS), ddim.ddim(LEVELS)
  for i in (0, -1):
    np.testing.assert_allclose(
      ours.mix[i, 0, [0, 2]], theirs.mix[i, 0], atol=1e-9
    )
    assert not ours.mix[i, 0, 1]
  assert np.all(ours.mix[1:-1, 0, 1])


def test_the_stochastic_first_step_is_the_ancestral_one_s():
  """Both are exact for data at one point, which all their noise leaves."""
  ours, theirs = dpm_solver.dpmpp_2m_sde(LEVELS), ddim.ddpm(LEVELS)
  np.testing.assert_allclose(
    ours.mix[0, 0, [0, 2]], theirs.mix[0, 0], atol=1e-9
  )
  np.testing.assert_allclose(ours.noise, theirs.noise, atol=1e-9)


@pytest.mark.parametrize('name', ['dpmpp_2m', 'dpmpp_2m_sde'])
def test_eta_is_refused(name):
  with pytest.raises(UserError, match=f"eta=1.0: sampler='{name}' has none"):
    getattr(dpm_solver, name)(LEVELS, 1.0)
