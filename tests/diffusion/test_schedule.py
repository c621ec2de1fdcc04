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
  ],
)
def test_mistakes_are_named(settings, named):
  with pytest.raises(UserError, match=named):
    schedule.make(**settings)
