"""PLMS (Liu et al. 2022), as the release runs it."""

import numpy as np

from ldm_jax.diffusion.ddim import coefficients
from ldm_jax.diffusion.sampling import Levels, Steps, deterministic, tabulate
from ldm_jax.types import UserError

# Adams-Bashforth weights of eps_hat now and of the ones before it.
_WEIGHTS = (
  (1.0,),
  (3 / 2, -1 / 2),
  (23 / 12, -16 / 12, 5 / 12),
  (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def plms(levels: Levels, eta: float = 0.0) -> Steps:
  """Deterministic; S steps ask the denoiser S + 1 times.

  The first step is taken twice: with eps_hat, then again from the same start
  with its mean with the eps_hat found where the first try landed.

  Raises:
    UserError: eta other than 0, or timesteps that are not evenly spaced.
  """
  deterministic('plms', eta)
  if len(levels.t) > 2 and np.ptp(np.diff(levels.t)) > 1:
    raise UserError(
      "sampler='plms' supposes evenly spaced timesteps; take "
      "spacing='leading', 'trailing' or 'compvis', or sampler='dpmpp_2m'."
    )
  t = levels.t[::-1]
  c_z, c_eps, _ = (c[::-1] for c in coefficients(levels))
  steps = len(t)

  # State: z, three past eps_hat (newest first), and z before the first step.
  # Columns of mix: the state, then eps_hat.
  z, past, start, eps = 0, 1, 4, 5
  rows = []

  def row(step, weights, origin=z, remember=True):
    mix = np.zeros((5, 6))
    mix[z, origin] = c_z[step]
    mix[z, eps] = c_eps[step] * weights[0]
    for i, weight in enumerate(weights[1:]):
      mix[z, past + i] = c_eps[step] * weight
    if remember:
      mix[past, eps] = mix[past + 1, past] = mix[past + 2, past + 1] = 1.0
    else:
      mix[range(past, past + 3), range(past, past + 3)] = 1.0
    mix[start, z] = 1.0
    return mix

  rows.append(row(0, _WEIGHTS[0]))
  rows.append(row(0, (1 / 2, 1 / 2), origin=start, remember=False))
  rows += [row(i, _WEIGHTS[min(i, 3)]) for i in range(1, steps)]
  visited = np.concatenate([t[:1], t[min(1, steps - 1) :][:1], t[1:]])
  return tabulate(visited, np.stack(rows), np.zeros(len(rows)))
