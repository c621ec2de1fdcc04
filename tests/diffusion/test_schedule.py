"""Tests for ldm_jax.diffusion.schedule."""

import jax
import numpy as np
import pytest

from ldm_jax.diffusion import schedule
from ldm_jax.types import UserError

KINDS = ('linear', 'cosine', 'sqrt_linear', 'sqrt')


@pytest.mark.parametrize('kind', KINDS)
def test_signal_falls_and_variance_is_preserved(kind):
  made = schedule.make(kind, 100, 1e-4, 0.02)
  assert made.num_timesteps == 100
  assert (np.diff(made.alpha_bar) < 0).all()
  assert 0 < made.alpha_bar[-1] < made.alpha_bar[0] < 1
  np.testing.assert_allclose(made.signal**2 + made.noise**2, 1, rtol=1e-6)
  np.testing.assert_allclose(
    made.snr, (made.signal / made.noise) ** 2, rtol=1e-4
  )


def test_betas_are_as_the_release_names_them():
  def beta(kind):
    a = schedule.make(kind, 5, 0.04, 0.16).alpha_bar
    return 1 - a / np.append(1.0, a[:-1])

  np.testing.assert_allclose(np.sqrt(beta('linear')), np.linspace(0.2, 0.4, 5))
  np.testing.assert_allclose(beta('sqrt_linear'), np.linspace(0.04, 0.16, 5))
  np.testing.assert_allclose(beta('sqrt') ** 2, np.linspace(0.04, 0.16, 5))


def test_cosine_is_nichol_and_dhariwal_s_curve_until_beta_is_clipped():
  made = schedule.make('cosine', 1000)
  curve = lambda u: np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
  expected = curve(np.arange(1, 1001) / 1000) / curve(0)
  np.testing.assert_allclose(made.alpha_bar[:-1], expected[:-1], rtol=1e-6)
  # The curve ends on 0; the clipped beta keeps a thousandth of what was left.
  np.testing.assert_allclose(made.alpha_bar[-1], 1e-3 * expected[-2], rtol=1e-6)


def test_no_precision_is_lost_in_the_product():
  made = schedule.make('linear', 1000, 0.00085, 0.012)
  beta = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
  assert made.alpha_bar.dtype == np.float64
  np.testing.assert_allclose(
    np.log(made.alpha_bar), np.cumsum(np.log1p(-beta)), rtol=1e-12
  )


def test_zero_terminal_snr_keeps_the_first_and_empties_the_last():
  plain = schedule.make('linear', 1000)
  zero = schedule.make('linear', 1000, zero_terminal_snr=True)
  np.testing.assert_allclose(zero.alpha_bar[0], plain.alpha_bar[0])
  assert 0 < zero.alpha_bar[-1] <= 2**-24
  # Signals are moved and stretched, and keep their proportions.
  before, after = np.sqrt(plain.alpha_bar), np.sqrt(zero.alpha_bar)
  np.testing.assert_allclose(
    np.diff(after[:-1]) / np.diff(before[:-1]),
    before[0] / (before[0] - before[-1]),
  )
  for kind in KINDS[:3]:
    alpha_bar = schedule.make(kind, 1000, zero_terminal_snr=True).alpha_bar
    assert (np.diff(alpha_bar) < 0).all()


@pytest.mark.parametrize('zero', [False, True])
def test_levels_between_timesteps(zero):
  made = schedule.make('linear', 1000, zero_terminal_snr=zero)
  whole = np.array([0, 1, 500, 998, 999])
  signal, noise = made.at(whole)
  assert signal.shape == (5, 1, 1, 1)
  np.testing.assert_allclose(signal.ravel(), made.signal[whole], rtol=2e-6)
  np.testing.assert_allclose(noise.ravel(), made.noise[whole], rtol=2e-6)
  t = np.array([0.25, 500.5, 998.9])
  signal, noise = made.at(t)
  np.testing.assert_allclose(signal**2 + noise**2, 1, rtol=1e-6)
  level = np.log(signal / noise).ravel()
  np.testing.assert_allclose(
    level, np.interp(t, np.arange(1000), made.half_log_snr), atol=1e-4
  )
  np.testing.assert_allclose(made.timestep(level), t, atol=1e-2)


def test_a_schedule_has_no_leaves_to_train_or_trace():
  assert not jax.tree.leaves(schedule.make())


@pytest.mark.parametrize(
  ('settings', 'named'),
  [
    (dict(kind='quadratic'), 'quadratic'),
    (dict(start=0.0), 'start=0.0'),
    (dict(start=0.1, end=0.01), 'end=0.01'),
    (dict(end=1.5), 'end=1.5'),
    (dict(num_timesteps=0), 'num_timesteps=0'),
    (dict(num_timesteps=1, zero_terminal_snr=True), 'not 1'),
  ],
)
def test_mistakes_are_named(settings, named):
  with pytest.raises(UserError, match=named):
    schedule.make(**settings)
