"""Tests for ldm_jax.diffusion.heun."""

import numpy as np
import pytest

from ldm_jax.diffusion import ddim, heun, sampling, schedule
from ldm_jax.types import UserError
from tests.diffusion import oracles

LEVELS = sampling.levels(schedule.make('linear', 100), 4)


def test_each_step_but_the_last_asks_at_both_of_its_ends():
  steps = heun.heun(LEVELS)
  assert steps.t.tolist() == [75, 50, 50, 25, 25, 0, 0]
  assert not np.any(steps.noise)


def test_it_converges_at_second_order():
  np.testing.assert_allclose(oracles.orders(heun.heun), 2, atol=0.1)


def test_a_constant_answer_makes_it_euler_s():
  constant = lambda z, t: np.full_like(z, 0.3)
  z = np.random.default_rng(0).normal(size=(5, 3))
  np.testing.assert_allclose(
    oracles.follow(heun.heun(LEVELS), z, constant),
    oracles.follow(ddim.euler(LEVELS), z, constant),
  )


def test_it_is_the_algorithm_of_karras_et_al():
  """Alg. 1 in the words of the paper, z_t / alpha and its sigma."""
  answer = lambda x, sigma: np.tanh(x) + sigma
  sigma = np.sqrt(1 / LEVELS.alpha_bar - 1)
  level = dict(zip(LEVELS.t, sigma))
  eps_at = lambda z, t: answer(z * np.sqrt(1 + level[t] ** 2), level[t])
  z = np.random.default_rng(0).normal(size=(5, 3))

  path = np.append(sigma[::-1], 0.0)
  x = z * np.sqrt(1 + path[0] ** 2)
  for i in range(4):
    d = answer(x, path[i])
    x_next = x + (path[i + 1] - path[i]) * d
    if path[i + 1]:
      d_next = answer(x_next, path[i + 1])
      x_next = x + (path[i + 1] - path[i]) * (d + d_next) / 2
    x = x_next
  result = oracles.follow(heun.heun(LEVELS), z, eps_at)
  np.testing.assert_allclose(result, x, rtol=1e-10)


def test_eta_is_refused():
  with pytest.raises(UserError, match='eta=0.5'):
    heun.heun(LEVELS, 0.5)
