"""Tests for ldm_jax.diffusion.unipc."""

import numpy as np
import pytest

from ldm_jax.diffusion import sampling, schedule, unipc
from ldm_jax.types import UserError
from tests.diffusion import oracles, solver_errors

LEVELS = sampling.levels(schedule.make('linear', 1000), 10, 'log_snr')


def test_the_corrector_brings_third_order_at_one_question_a_step():
  assert len(unipc.unipc(LEVELS).t) == 10
  np.testing.assert_allclose(oracles.orders(unipc.unipc)[1:], 3, atol=0.1)


def test_few_steps_end_closer_than_dpm_solver_s():
  for steps in (10, 15, 25):
    ours = solver_errors.error('unipc', 'log_snr', steps)
    assert ours < solver_errors.error('dpmpp_2m', 'log_snr', steps)


def test_two_steps_are_first_order_then_one_correction():
  """The corrector of the first step: the mean of z_0_hat at both ends."""
  levels = LEVELS.replace(
    t=LEVELS.t[-2:],
    alpha_bar=LEVELS.alpha_bar[-2:],
    alpha_bar_next=LEVELS.alpha_bar_next[-2:],
  )
  _, here, there = levels.walk()
  answers = iter([0.2, 0.7])
  z = np.ones(1)

  def eps_at(z, t):
    i = list(levels.t[::-1]).index(t)
    return (z - here.signal[i] * next(answers)) / here.noise[i]

  result = oracles.follow(unipc.unipc(levels), z, eps_at)
  # Step 0, corrected; then a step with the answer at the predicted z.
  h = there.half_log_snr - here.half_log_snr
  corrected = (
    there.noise[0] / here.noise[0] * z
    + there.signal[0] * (1 - np.exp(-h[0])) * (0.2 + 0.7) / 2
  )
  # The second level's own step looks back at both answers.
  middle = 0.7 + h[1] / h[0] / 2 * (0.7 - 0.2)
  expected = (
    there.noise[1] / here.noise[1] * corrected
    + there.signal[1] * (1 - np.exp(-h[1])) * middle
  )
  np.testing.assert_allclose(result, expected)


def test_eta_is_refused():
  with pytest.raises(UserError, match='eta=0.5'):
    unipc.unipc(LEVELS, 0.5)
