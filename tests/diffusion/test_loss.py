"""Tests for ldm_jax.diffusion.loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ldm_jax.diffusion import loss as losses
from ldm_jax.diffusion import schedule
from ldm_jax.diffusion.loss import LossSpec
from ldm_jax.types import UserError
from tests.diffusion import oracles

SCHEDULE = schedule.make('linear', 1000, 0.0015, 0.0195)
Z, EPS = jax.random.normal(jax.random.key(0), (2, 4, 4, 4, 3))
T = jnp.array([0, 3, 500, 999])
nothing = lambda z, t: jnp.zeros_like(z)


def loss_at(spec, predict=nothing, logvar=None):
  return losses.loss_at(spec, SCHEDULE, predict, Z, T, EPS, logvar)[0]


def test_the_default_is_eq_2():
  z_t = losses.add_noise(SCHEDULE, Z, T, EPS)
  network = lambda z, t: 0.3 * z
  expected = jnp.mean((EPS - 0.3 * z_t) ** 2, axis=(1, 2, 3))
  np.testing.assert_allclose(loss_at(LossSpec(), network), expected, rtol=1e-6)


def test_add_noise_keeps_unit_variance():
  z = jax.random.normal(jax.random.key(1), (64, 8, 8, 3))
  eps = jax.random.normal(jax.random.key(2), z.shape)
  t = jnp.linspace(0, 999, 64).astype(int)
  z_t = losses.add_noise(SCHEDULE, z, t, eps)
  np.testing.assert_allclose(z_t.std((1, 2, 3)), 1, atol=0.15)
  np.testing.assert_allclose(z_t.std(), 1, atol=0.01)
  correlation = jnp.mean(z_t * z, axis=(1, 2, 3))
  np.testing.assert_allclose(correlation, SCHEDULE.signal[t], atol=0.25)


@pytest.mark.parametrize('prediction', ['eps', 'v', 'x0'])
@pytest.mark.parametrize('kind', ['l1', 'l2'])
def test_the_truth_costs_nothing(prediction, kind):
  level = lambda table: oracles.at(table, T)
  truth = {
    'eps': EPS,
    'x0': Z,
    'v': level(SCHEDULE.signal) * EPS - level(SCHEDULE.noise) * Z,
  }[prediction]
  spec = LossSpec(prediction=prediction, kind=kind, elbo_weight=1.0)
  np.testing.assert_allclose(loss_at(spec, lambda z, t: truth), 0, atol=1e-12)


def test_l1_and_l2_of_a_known_error():
  off = lambda z, t: EPS + jnp.where(jnp.arange(3) == 0, 3.0, 0.0)
  np.testing.assert_allclose(loss_at(LossSpec(kind='l2'), off), 3, rtol=1e-5)
  np.testing.assert_allclose(loss_at(LossSpec(kind='l1'), off), 1, rtol=1e-5)


def test_a_loss_belongs_to_its_example():
  apart = lambda z, t: jnp.arange(4.0)[:, None, None, None] * jnp.ones_like(z)
  together = loss_at(LossSpec(), apart)
  for i in range(4):
    alone, _ = losses.loss_at(
      LossSpec(),
      SCHEDULE,
      lambda z, t, i=i: jnp.full_like(z, float(i)),
      Z[i : i + 1],
      T[i : i + 1],
      EPS[i : i + 1],
    )
    np.testing.assert_allclose(alone[0], together[i], rtol=1e-6)


def test_timesteps_and_noise_are_drawn_from_the_whole_range():
  seen = {}

  def predict(z, t):
    seen.update(z=z, t=t)
    return jnp.zeros_like(z)

  z = jnp.zeros((4096, 1, 1, 1))
  loss, _ = losses.diffusion_loss(
    LossSpec(), SCHEDULE, predict, z, jax.random.key(0)
  )
  assert seen['t'].min() < 10 and seen['t'].max() > 989
  assert abs(seen['t'].mean() - 499.5) < 15
  # With no data z_t is noise alone, and predicting nothing costs its square.
  np.testing.assert_allclose(seen['z'].std(), SCHEDULE.noise.mean(), rtol=0.1)
  assert abs(loss.mean() - 1) < 0.1


def test_logit_normal_timesteps_are_spread_as_their_density_says():
  spec = LossSpec(timesteps='logit_normal', logit_mean=0.2, logit_std=0.9)
  t = losses.draw_timesteps(spec, 1000, 20_000, jax.random.key(0))
  assert t.dtype == np.int32 and t.min() >= 0 and t.max() <= 999
  spread = scipy.stats.norm(0.2, 0.9)
  for below in (100, 300, 500, 700, 900):
    share = spread.cdf(np.log(below / (1000 - below)))
    assert abs(np.mean(t < below) - share) < 0.012  # Three standard errors.


def test_a_timestep_is_never_beyond_the_last():
  spec = LossSpec(timesteps='logit_normal', logit_mean=50.0)
  t = losses.draw_timesteps(spec, 1000, 8, jax.random.key(0))
  np.testing.assert_array_equal(t, 999)


# Min-SNR (Hang et al. 2023).


def test_min_snr_weights_reduce_to_known_ones():
  weight = lambda kind, gamma: np.asarray(
    losses.min_snr_weight(
      LossSpec(prediction=kind, min_snr_gamma=gamma), SCHEDULE
    )
  )
  # Above every SNR: each objective becomes the x0 loss weighted by SNR,
  # which is the plain eps loss.
  large = 1e9
  np.testing.assert_allclose(weight('eps', large), 1, rtol=1e-6)
  np.testing.assert_allclose(weight('x0', large), SCHEDULE.snr, rtol=1e-6)
  np.testing.assert_allclose(
    weight('v', large), SCHEDULE.snr / (1 + SCHEDULE.snr), rtol=1e-6
  )
  # Where the signal is strong, gamma replaces the SNR.
  strong = SCHEDULE.snr > 5
  np.testing.assert_allclose(weight('x0', 5.0)[strong], 5, rtol=1e-6)
  np.testing.assert_allclose(weight('eps', 5.0)[~strong], 1, rtol=1e-6)


@pytest.mark.parametrize('prediction', ['v', 'x0'])
def test_min_snr_makes_one_objective_of_all_predictions(prediction):
  """The same wrong z_0, told in another way, costs the same."""
  wrong = Z + 0.1 * EPS + 0.2
  level = lambda table: oracles.at(table, T)
  signal, noise = level(SCHEDULE.signal), level(SCHEDULE.noise)
  z_t = losses.add_noise(SCHEDULE, Z, T, EPS)
  wrong_eps = (z_t - signal * wrong) / noise
  told = {
    'eps': wrong_eps,
    'x0': wrong,
    'v': signal * wrong_eps - noise * wrong,
  }
  cost = lambda kind: loss_at(
    LossSpec(prediction=kind, min_snr_gamma=5.0), lambda z, t: told[kind]
  )
  np.testing.assert_allclose(cost(prediction), cost('eps'), rtol=1e-3)


# The bound's weights, and learned variances.


def test_elbo_weights_are_the_kl_between_gaussians():
  """KL(q(z_{t-1} | z_t, z_0) || p) for means that differ by an error in eps."""
  weight = np.asarray(losses.elbo_weights(LossSpec(), SCHEDULE))
  a = SCHEDULE.alpha_bar
  t = np.array([1, 10, 500, 999])
  beta = 1 - a[t] / a[t - 1]
  variance = beta * (1 - a[t - 1]) / (1 - a[t])
  # Of the posterior's mean, eps is worth beta / sqrt(alpha (1 - alpha_bar)).
  worth = beta / np.sqrt((1 - beta) * (1 - a[t]))
  np.testing.assert_allclose(weight[t], worth**2 / (2 * variance), rtol=1e-6)
  assert weight[0] == weight[1]


def test_terms_add_with_their_weights():
  simple = loss_at(LossSpec())
  elbo = losses.elbo_weights(LossSpec(), SCHEDULE)[T] * simple
  spec = LossSpec(simple_weight=0.5, elbo_weight=0.25)
  total, parts = losses.loss_at(spec, SCHEDULE, nothing, Z, T, EPS)
  np.testing.assert_allclose(total, 0.5 * simple + 0.25 * elbo, rtol=1e-5)
  np.testing.assert_allclose(parts['loss_simple'], simple, rtol=1e-6)
  np.testing.assert_allclose(parts['loss_vlb'], elbo, rtol=1e-6)


def test_a_log_variance_of_zero_changes_nothing():
  zero = lambda t: jnp.zeros_like(t, jnp.float32)
  np.testing.assert_allclose(
    loss_at(LossSpec(), logvar=zero), loss_at(LossSpec()), rtol=1e-6
  )


def test_the_best_log_variance_is_the_log_of_the_loss():
  simple = loss_at(LossSpec())
  slope = jax.grad(lambda s: loss_at(LossSpec(), logvar=lambda t: s).sum())
  np.testing.assert_allclose(slope(jnp.log(simple)), 0, atol=1e-6)
  assert (slope(jnp.log(simple) + 0.1) > 0).all()
  assert (slope(jnp.log(simple) - 0.1) < 0).all()


@pytest.mark.parametrize('field', ['prediction', 'kind'])
def test_mistakes_are_named(field):
  with pytest.raises(UserError, match=f"loss.{field}='huber'"):
    LossSpec(**{field: 'huber'})
