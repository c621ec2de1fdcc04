"""Heun's method on the probability flow (Karras et al. 2022, Alg. 1)."""

import numpy as np

from ldm_jax.diffusion.sampling import Levels, Steps, deterministic, tabulate


def heun(levels: Levels, eta: float = 0.0) -> Steps:
  """Second order; S steps ask the denoiser 2 S - 1 times.

  d(z / alpha) / d(sigma / alpha) = eps: an Euler step, then the same step
  again with the mean of the eps at its two ends. The last is Euler's alone,
  since where it leads there is no noise to ask for.

  Raises:
    UserError: eta other than 0.
  """
  deterministic('heun', eta)
  t, here, there = levels.walk()
  # State: z, where the step began, and eps there.
  z, begin, eps_begin, eps = np.eye(4)
  visited, rows = [], []

  def step(i, begin, slope):
    change = (there.ratio[i] - here.ratio[i]) * slope
    return there.signal[i] * (begin / here.signal[i] + change)

  for i in range(len(t)):
    visited.append(t[i])
    rows.append([step(i, z, eps), z, eps])
    if i + 1 < len(t):
      visited.append(t[i + 1])
      mean = (eps_begin + eps) / 2
      rows.append([step(i, begin, mean), begin, eps_begin])
  return tabulate(visited, rows, np.zeros(len(rows)))
