"""DPM-Solver++ (Lu et al. 2022): exponential integrators of z_0_hat."""

import numpy as np

from ldm_jax.diffusion.sampling import Levels, Steps, deterministic, tabulate


def dpmpp_2m(levels: Levels, eta: float = 0.0) -> Steps:
  """Second order with one question per step (Alg. 2)."""
  deterministic('dpmpp_2m', eta)
  return _multistep(levels, stochastic=False)


def dpmpp_2m_sde(levels: Levels, eta: float = 0.0) -> Steps:
  """The same for the reverse SDE (their SDE-DPM-Solver++(2M))."""
  deterministic('dpmpp_2m_sde', eta)
  return _multistep(levels, stochastic=True)


def _multistep(levels: Levels, stochastic: bool) -> Steps:
  """z_s = (sigma_s / sigma_t) k z + alpha_s (1 - e^-h k) D + noise.

  h is how much lambda grows; k = 1, or e^-h for the SDE; D extends the line
  through this z_0_hat and the last one to the middle of the step.
  """
  t, here, there = levels.walk()
  h = there.half_log_snr - here.half_log_snr
  keep = np.exp(-h) if stochastic else np.ones_like(h)
  # State: z, and z_0_hat of the row before.
  z, before, eps = np.eye(3)
  rows = []
  for i in range(len(t)):
    z_0 = (z - here.noise[i] * eps) / here.signal[i]
    middle = z_0
    # To the data itself h is infinite: all that is left is z_0_hat.
    if i and np.isfinite(h[i]):
      middle = z_0 + h[i] / h[i - 1] / 2 * (z_0 - before)
    z_next = (
      there.noise[i] / here.noise[i] * keep[i] * z
      + there.signal[i] * (1 - np.exp(-h[i]) * keep[i]) * middle
    )
    rows.append([z_next, z_0])
  return tabulate(t, rows, there.noise * np.sqrt(1 - keep**2))
