"""How to sample, in one place: config.sampling, flags, the Python face."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import numpy as np

from ldm_jax.diffusion import OWN_SPACING, SOLVERS
from ldm_jax.diffusion.editing import shortened
from ldm_jax.diffusion.guidance import Guidance
from ldm_jax.diffusion.sampling import Levels, Steps, levels
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.types import Array, UserError


@flax.struct.dataclass
class Plan:
  """Settings as a compiled program takes them: all numbers are traced."""

  table: Steps
  guidance: Guidance | None = None
  threshold: tuple[Array, Array] | None = None  # (share, bound)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What decides how a latent is reached; see docs/sampling.md.

  Of these, `steps` and `sampler` decide the compiled program, and whether
  there is guidance, an interval, a threshold; all numbers are traced.

  Attributes:
    steps: how many.
    sampler: a name in SOLVERS.
    eta: of 'ddim': 0 deterministic, 1 ancestral.
    guidance: the classifier-free scale; 1 is the conditional model.
    spacing: which timesteps; a name in sampling.SPACINGS, or '': the
      solver's own.
    guidance_interval: (low, high) in timesteps; guidance is 1 outside.
    guidance_rescale: from 0 to 1, how far the spread of guided predictions is
      brought back to the conditional model's.
    threshold: the quantile of dynamic thresholding; 0 is none.
    threshold_range: the data lies within +- this; 0 is 1 for pixels, and for
      latents, which have no such range, an error.
  """

  steps: int = 50
  sampler: str = 'ddim'
  eta: float = 0.0
  guidance: float = 1.0
  spacing: str = ''
  guidance_interval: tuple[float, float] | None = None
  guidance_rescale: float = 0.0
  threshold: float = 0.0
  threshold_range: float = 0.0

  def __post_init__(self):
    if self.sampler not in SOLVERS:
      raise UserError(
        f'sampler={self.sampler!r} is unknown; allowed: {", ".join(SOLVERS)}.'
      )
    interval = self.guidance_interval
    if interval is not None and not (
      len(interval) == 2 and 0 <= interval[0] <= interval[1]
    ):
      raise UserError(
        f'guidance_interval={interval} must be two timesteps, 0 <= low <= high.'
      )
    for name in ('guidance_rescale', 'threshold'):
      if not 0 <= getattr(self, name) <= 1:
        raise UserError(f'{name}={getattr(self, name)} is outside 0 to 1.')
    if self.threshold_range < 0:
      raise UserError(
        f'threshold_range={self.threshold_range} must be positive.'
      )

  @classmethod
  def split(cls, given: Mapping[str, Any]) -> tuple['Settings', dict[str, Any]]:
    """(the settings among these keywords, all other keywords)."""
    names = {field.name for field in dataclasses.fields(cls)}
    others = {k: v for k, v in given.items() if k not in names}
    return cls(**{k: v for k, v in given.items() if k in names}), others

  def about(self) -> dict[str, Any]:
    """What to tell of them: with the spacing chosen, without what is off."""
    told = dataclasses.asdict(self) | {'spacing': self.chosen_spacing}
    off = ('guidance_interval', 'guidance_rescale', 'threshold',
           'threshold_range')  # fmt: skip
    return {k: v for k, v in told.items() if v or k not in off}

  @property
  def chosen_spacing(self) -> str:
    return self.spacing or OWN_SPACING.get(self.sampler, 'leading')

  def plan(
    self, schedule: Schedule, *, pixels: bool, strength: float = 1.0
  ) -> Plan:
    """For a program; `pixels`: latents are images, in [-1, 1].

    Raises:
      UserError: settings that the solver or these latents do not have.
    """
    return Plan(
      self.table(schedule, strength),
      self.guided(),
      self.thresholded(pixels),
    )

  def levels(self, schedule: Schedule, strength: float = 1.0) -> Levels:
    """The levels visited, of a strength's share the last."""
    visited = levels(schedule, self.steps, self.chosen_spacing)
    return shortened(visited, strength)

  def table(self, schedule: Schedule, strength: float = 1.0) -> Steps:
    """The solver's table; raises UserError where there is none."""
    visited = self.levels(schedule, strength)
    if not len(visited.t):
      return Steps(np.zeros(0), np.zeros((0, 1, 2)), np.zeros(0))
    return SOLVERS[self.sampler](visited, self.eta)

  def guided(self) -> Guidance | None:
    """The traced half of classifier-free guidance; None without."""
    if self.guidance == 1:
      return None
    interval = self.guidance_interval
    return Guidance(
      scale=np.float32(self.guidance),
      rescale=np.float32(self.guidance_rescale),
      interval=interval and tuple(np.float32(t) for t in interval),
    )

  def thresholded(self, pixels: bool) -> tuple[Array, Array] | None:
    """(share, bound) of dynamic thresholding, traced; None without.

    Raises:
      UserError: of latents whose range was not given.
    """
    if not self.threshold:
      return None
    if not (pixels or self.threshold_range):
      raise UserError(
        f'threshold={self.threshold}: latents have no range of their own, as '
        'pixels have; say where they should end with threshold_range (in '
        'standard deviations), or leave threshold out.'
      )
    bound = self.threshold_range or 1.0
    return np.float32(self.threshold), np.float32(bound)
