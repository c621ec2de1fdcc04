"""Sampling that begins from a given latent, of any model: no training.

Three things, each free of the others and of the solver: where a walk begins
(`shortened`, `Start`), and what it is held to on its way (`masked`).
"""

import flax.struct
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.sampling import Levels
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.types import Array, Denoiser, UserError


def shortened(levels: Levels, strength: float) -> Levels:
  """The last round(strength * S) of the S steps (SDEdit; Meng et al. 2022).

  Strength 1 is the whole walk, 0 no step at all.

  Raises:
    UserError: strength outside [0, 1].
  """
  if not 0 <= strength <= 1:
    raise UserError(
      f'strength={strength} is outside 0 (the image itself) to 1 (all of it '
      'drawn anew).'
    )
  count = round(strength * len(levels.t))
  cut = lambda x: x[:count]  # Ascending: the first are next to the data.
  return Levels(
    cut(levels.t), cut(levels.alpha_bar), cut(levels.alpha_bar_next)
  )


@flax.struct.dataclass
class Start:
  """A latent that a walk begins from, instead of noise alone.

  Attributes:
    z_0: the given latent [B h w c].
    known: [B h w 1], 1 where it is to be kept.
    level: (signal, noise) of the first step; see `first_level`.
    whole: whether z_0 shows where it is not kept too, as for a strength.
  """

  z_0: Array
  known: Array
  level: tuple[Array, Array]
  whole: Array

  def begin(self, noise: Array) -> Array:
    """N(0, I) [B h w c] -> z_0 noised where it is to be seen; else noise."""
    signal, sigma = self.level
    noised = signal * self.z_0 + sigma * noise
    return jnp.where(self.whole | (self.known > 0), noised, noise)


def first_level(levels: Levels) -> tuple[np.ndarray, np.ndarray]:
  """(signal, noise) where a walk along these levels begins."""
  alpha_bar = levels.alpha_bar[-1] if len(levels.t) else 1.0
  return np.float32(np.sqrt(alpha_bar)), np.float32(np.sqrt(1 - alpha_bar))


def masked(
  denoise: Denoiser, schedule: Schedule, z_0: Array, known: Array
) -> Denoiser:
  """Where `known` [B h w 1] is 1, the eps that leads to z_0 [B h w c].

  Whatever the solver, z_t is then q(z_t | z_0) there at every step and z_0 in
  the end, while the network sees known and unknown side by side and completes
  the one by the other. It is what the release's `mask` and `x0` do before each
  step of DDIM, with one noise for all steps where eta is 0; the release draws
  a new one for each, as eta 1 does here.
  """

  def wrapped(z, t):
    signal, noise = schedule.at(t)
    return jnp.where(known > 0, (z - signal * z_0) / noise, denoise(z, t))

  return wrapped
