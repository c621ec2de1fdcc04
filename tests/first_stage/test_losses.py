"""Tests for ldm_jax.first_stage.losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.first_stage import losses
from ldm_jax.types import UserError


def random(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def test_kl_is_the_integral():
  """Against a Riemann sum of q log(q / p), latent element by element."""
  mean, logvar = random(0, 2, 3), random(1, 2, 3)
  x = np.linspace(-30, 30, 200_001)
  log_normal = lambda x, m, v: -0.5 * ((x - m) ** 2 / v + np.log(2 * np.pi * v))
  total = 0.0
  for m, lv in zip(np.ravel(mean), np.ravel(logvar), strict=True):
    log_q = log_normal(x, float(m), np.exp(float(lv)))
    ratio = log_q - log_normal(x, 0.0, 1.0)
    total += np.sum(np.exp(log_q) * ratio) * (x[1] - x[0])
  np.testing.assert_allclose(
    losses.kl_divergence(mean, logvar), total / 2, rtol=1e-5
  )


def test_kl_of_the_prior_is_zero():
  zero = jnp.zeros((2, 4, 4, 3))
  assert losses.kl_divergence(zero, zero) == 0


def test_the_two_models_scale_the_same_error_differently():
  error = jnp.abs(random(0, 2, 4, 4, 3))
  perceptual = jnp.array([0.5, 1.5])
  mean = losses.vq_nll(error, perceptual)
  np.testing.assert_allclose(mean, error.mean() + 1.0, rtol=1e-6)
  # A sum over H W C, LPIPS joining each of them.
  np.testing.assert_allclose(
    losses.kl_nll(error, perceptual, 0.0), 4 * 4 * 3 * mean, rtol=1e-6
  )


def test_the_best_log_variance_is_the_log_of_the_mean_error():
  error = jnp.abs(random(0, 2, 4, 4, 3))
  grad = jax.grad(losses.kl_nll, argnums=2)
  best = jnp.log(error.mean())
  np.testing.assert_allclose(grad(error, jnp.zeros(2), best), 0, atol=1e-4)


def test_codebook_loss_puts_the_quarter_on_the_codebook():
  z, quantized = random(0, 2, 4), random(1, 2, 4)
  np.testing.assert_allclose(
    losses.codebook_loss(z, quantized),
    1.25 * np.mean(np.square(z - quantized)),
    rtol=1e-6,
  )
  to_z, to_code = jax.grad(losses.codebook_loss, (0, 1))(z, quantized)
  np.testing.assert_allclose(to_code, -0.25 * to_z, rtol=1e-6)
  # Descent pulls the latent to its code.
  np.testing.assert_array_equal(np.sign(to_z), np.sign(z - quantized))


@pytest.mark.parametrize('kind', ['hinge', 'vanilla'])
def test_discriminator_loss_falls_as_the_logits_part(kind):
  loss = lambda gap: losses.discriminator_loss(
    kind, jnp.full(4, gap), jnp.full(4, -gap)
  )
  undecided = {'hinge': 1.0, 'vanilla': np.log(2.0)}[kind]
  np.testing.assert_allclose(loss(0.0), undecided, rtol=1e-6)
  assert loss(-0.5) > loss(0.0) > loss(0.5) > 0
  assert loss(30.0) < 1e-6


def test_hinge_ignores_what_is_sure_already():
  grad = jax.grad(lambda x: losses.discriminator_loss('hinge', x, -x))
  assert grad(jnp.array([2.0])) == 0


def test_adaptive_weight_balances_and_is_bounded():
  g = jnp.array([3.0, 4.0])
  np.testing.assert_allclose(
    losses.adaptive_weight(2 * g, g), 10 / (5 + 1e-4), rtol=1e-6
  )
  assert losses.adaptive_weight(g, 0 * g) == 1e4
  assert losses.adaptive_weight(0 * g, g) == 0
  through = jax.grad(lambda g: losses.adaptive_weight(g, 2 * g))(g)
  np.testing.assert_array_equal(through, 0)


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('pixel', 'l3', "pixel='l3'.*l1, l2"),
    ('disc_loss', 'wgan', "disc_loss='wgan'.*hinge, vanilla"),
    ('kl_weight', -1.0, 'kl_weight=-1.0'),
    ('disc_layers', 0, 'disc_layers=0'),
    ('disc_warmup', 60_000, 'disc_warmup=60000.*disc_start'),
  ],
)
def test_a_wrong_setting_names_itself(field, value, message):
  with pytest.raises(UserError, match=message):
    losses.LossSpec(**{field: value})
