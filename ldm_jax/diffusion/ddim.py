"""DDIM (Song et al. 2021), and what others have called some of its cases."""

import numpy as np

from ldm_jax.diffusion.sampling import Levels, Steps, deterministic, tabulate
from ldm_jax.types import UserError


def ddim(levels: Levels, eta: float = 0.0) -> Steps:
  """Eq. 12: z_s = sqrt(a_s) z_0_hat + sqrt(1 - a_s - sigma^2) eps + sigma n.

  Raises:
    UserError: eta outside [0, 1], where no such step exists.
  """
  if not 0.0 <= eta <= 1.0:
    raise UserError(f'eta={eta} is outside [0, 1].')
  c_z, c_eps, sigma = coefficients(levels, eta)
  mix = np.stack([c_z, c_eps], axis=-1)[:, None]  # [S 1 2]
  return tabulate(levels.t[::-1], mix[::-1], sigma[::-1])


def ddpm(levels: Levels, eta: float = 0.0) -> Steps:
  """Ancestral sampling (Ho et al. 2020, Alg. 2): DDIM of eta 1.

  Over all T timesteps it is theirs, with the posterior's variance.
  """
  deterministic('ddpm', eta)
  return ddim(levels, 1.0)


def euler(levels: Levels, eta: float = 0.0) -> Steps:
  """Euler's method on d(z / alpha) / d(sigma / alpha) = eps: DDIM of eta 0.

  Song et al. 2021, Eq. 14; Karras et al. 2022, Alg. 1 without its second half.
  """
  deterministic('euler', eta)
  return ddim(levels, 0.0)


def euler_ancestral(levels: Levels, eta: float = 0.0) -> Steps:
  """Euler to below the next level and noise back up to it: DDIM of eta 1.

  As k-diffusion names it. With s and t for sigma / alpha at the next level and
  at this one, the noise's variance is s^2 (t^2 - s^2) / t^2.
  """
  deterministic('euler_ancestral', eta)
  return ddim(levels, 1.0)


def coefficients(levels: Levels, eta: float = 0.0):
  """(c_z, c_eps, sigma), each [S], of z_s = c_z z_t + c_eps eps + sigma n."""
  a_t, a_s = levels.alpha_bar, levels.alpha_bar_next
  sigma = eta * np.sqrt((1 - a_s) / (1 - a_t) * (1 - a_t / a_s))
  c_z = np.sqrt(a_s / a_t)
  c_eps = np.sqrt(1 - a_s - sigma**2) - c_z * np.sqrt(1 - a_t)
  return c_z, c_eps, sigma
