"""Tests for ldm_jax.diffusion.guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.guidance import classifier_free
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


def test_the_scale_is_traced():
  compiled = []

  @jax.jit
  def run(scale):
    compiled.append(scale)
    return classifier_free(model, COND, NULL, scale)(Z, T)

  run(1.0), run(3.0)
  assert len(compiled) == 1
