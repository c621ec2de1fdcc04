"""UniPC (Zhao et al. 2023): a predictor and a corrector that costs nothing."""

import math

import numpy as np

from ldm_jax.diffusion.sampling import Levels, Steps, deterministic, tabulate


def unipc(levels: Levels, eta: float = 0.0) -> Steps:
  """UniPC-2 of z_0_hat with B(h) = e^h - 1: third order, one question a step.

  What the denoiser says at a predicted z corrects that z before it serves the
  next prediction (Alg. 1); it is not asked again.

  Raises:
    UserError: eta other than 0.
  """
  deterministic('unipc', eta)
  t, here, there = levels.walk()
  steps = len(t)
  h = there.half_log_snr - here.half_log_snr

  # State: z as predicted, the z before it as corrected, the last two z_0_hat.
  z, z_before, z_0_1, z_0_2, eps = np.eye(5)

  def step(i, begin, z_0, nodes):
    """From level i on; nodes: (how far in h, z_0_hat there)."""
    result = (
      there.noise[i] / here.noise[i] * begin
      + there.signal[i] * (1 - np.exp(-h[i])) * z_0
    )
    if nodes:
      weights = _weights([r for r, _ in nodes], -h[i])
      for weight, (r, other) in zip(weights, nodes):
        slope = there.signal[i] * (1 - np.exp(-h[i])) * weight / r
        result = result + slope * (other - z_0)
    return result

  rows = []
  for i in range(steps):
    z_0 = (z - here.noise[i] * eps) / here.signal[i]
    corrected = z
    if i:
      nodes = [(-h[i - 2] / h[i - 1], z_0_2)] if i > 1 else []
      corrected = step(i - 1, z_before, z_0_1, [*nodes, (1.0, z_0)])
    # To the data itself h is infinite: all that is left is z_0_hat.
    multistep = i and np.isfinite(h[i])
    nodes = [(-h[i - 1] / h[i], z_0_1)] if multistep else []
    rows.append([step(i, corrected, z_0, nodes), corrected, z_0, z_0_1])
  return tabulate(t, rows, np.zeros(steps))


def _weights(nodes: list[float], h: float) -> np.ndarray:
  """a with sum_m a_m r_m^(k-1) = k! phi_(k+1)(h) h / B(h) for k = 1, 2, ...

  Of a single node it is 1/2, which is right to the same order in h.
  """
  if len(nodes) == 1:
    return np.array([0.5])
  phi, sums = math.expm1(h) / h, []
  for k in range(1, len(nodes) + 1):
    phi = (phi - 1 / math.factorial(k)) / h  # phi_(k+1)
    sums.append(math.factorial(k) * phi * h / math.expm1(h))
  powers = np.vander(nodes, increasing=True).T
  return np.linalg.solve(powers, sums)
