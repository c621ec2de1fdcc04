"""Tests for ldm_jax.diffusion.guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import schedule
from ldm_jax.diffusion.guidance import Guidance, classifier_free
from ldm_jax.diffusion.prediction import as_denoiser
from ldm_jax.types import Conditioning

COND = Conditioning(
  context=jnp.full((2, 3, 4), 1.0), concat=jnp.full((2, 5, 5, 1), 3.0)
)
NULL = Conditioning(
  context=jnp.full((2, 3, 4), -2.0), concat=jnp.full((2, 5, 5, 1), 3.0)
)
Z = jax.random.normal(jax.random.key(0), (2, 5, 5, 3))
T = jnp.array([4, 9])


def model(z, t, cond):
  told = cond.context.mean((1, 2))[:, None, None, None] + cond.concat
  return jnp.tanh(z * told) + t[:, None, None, None]


@pytest.mark.parametrize(('scale', 'expected'), [(1.0, COND), (0.0, NULL)])
def test_scale_one_is_the_condition_and_zero_the_null(scale, expected):
  denoise = classifier_free(model, COND, NULL, scale)
  np.testing.assert_allclose(denoise(Z, T), model(Z, T, expected), atol=1e-6)


def test_the_answer_is_linear_in_the_scale():
  eps = lambda scale: classifier_free(model, COND, NULL, scale)(Z, T)
  np.testing.assert_allclose(
    eps(7.5) - eps(0.0), 7.5 * (eps(1.0) - eps(0.0)), atol=1e-4
  )


def test_the_model_is_asked_once_with_the_null_first():
  asked = []

  def record(z, t, cond):
    asked.append((z, t, cond))
    return z

  classifier_free(record, COND, NULL, 2.0)(Z, T)
  [(z, t, cond)] = asked
  np.testing.assert_array_equal(z, jnp.concatenate([Z, Z]))
  np.testing.assert_array_equal(t, [4, 9, 4, 9])
  np.testing.assert_array_equal(cond.context[:, 0, 0], [-2, -2, 1, 1])
  assert cond.vector is None


def test_every_number_is_traced():
  compiled = []

  @jax.jit
  def run(guidance):
    compiled.append(guidance)
    return classifier_free(model, COND, NULL, guidance)(Z, T)

  run(Guidance(1.0, 0.0, (0.0, 9.0))), run(Guidance(3.0, 0.7, (2.0, 5.0)))
  assert len(compiled) == 1


def test_outside_the_interval_the_model_is_the_conditional_one():
  plain, guided = model(Z, T, COND), classifier_free(model, COND, NULL, 3.0)
  # T is 4 and 9; the ends belong to the interval.
  inside = lambda low, high: classifier_free(
    model, COND, NULL, Guidance(3.0, interval=(low, high))
  )(Z, T)
  np.testing.assert_allclose(inside(4, 9), guided(Z, T), rtol=1e-6)
  np.testing.assert_allclose(inside(5, 8.9), plain, rtol=1e-6)
  both = inside(9, 20)
  np.testing.assert_allclose(both[0], plain[0], rtol=1e-6)
  np.testing.assert_allclose(both[1], guided(Z, T)[1], rtol=1e-6)


def test_outside_the_interval_the_null_is_not_asked():
  asked = []

  def record(z, t, cond):
    jax.debug.callback(lambda z: asked.append(len(z)), z)
    return z

  for low in (0.0, 5.0):
    guidance = Guidance(3.0, interval=(low, 5.0))
    classifier_free(record, COND, NULL, guidance)(Z, jnp.array([4, 4]))
  jax.effects_barrier()
  assert asked == [4, 2]


def test_rescaling_brings_back_the_spread():
  spread = lambda x: np.std(x, axis=(1, 2, 3))
  run = lambda amount: classifier_free(
    model, COND, NULL, Guidance(9.0, amount)
  )(Z, T)
  cond, free = model(Z, T, COND), run(0.0)
  assert (spread(free) > 1.5 * spread(cond)).all()
  np.testing.assert_allclose(spread(run(1.0)), spread(cond), rtol=1e-5)
  # Between the two it goes in a straight line (Lin et al., Eq. 16).
  np.testing.assert_allclose(
    run(0.7), 0.7 * run(1.0) + 0.3 * free, rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('kind', ['v', 'x0'])
def test_guidance_of_any_prediction_is_guidance_of_eps(kind):
  curve = schedule.make('linear', 100)

  def of_kind(z, t, cond):
    """What a network of that kind says where `model` says eps."""
    eps = model(z, t, cond)
    signal, noise = curve.at(t)
    z_0 = (z - noise * eps) / signal
    return z_0 if kind == 'x0' else signal * eps - noise * z_0

  guided = classifier_free(of_kind, COND, NULL, 3.0)
  np.testing.assert_allclose(
    as_denoiser(guided, kind, curve)(Z, T),
    classifier_free(model, COND, NULL, 3.0)(Z, T),
    rtol=1e-3,
    atol=1e-3,
  )
