"""What an evaluation is asked for, checked before anything is opened."""

import dataclasses

from ldm_jax.data import masks
from ldm_jax.diffusion.settings import Settings
from ldm_jax.evaluation import pairs, protocols, set_metrics
from ldm_jax.types import UserError

# Of the first stage of a run; the rest is of samples.
RECONSTRUCTION = (*pairs.NAMES, 'rfid', 'random_rfrechet', 'codebook')
NAMES = (
  *set_metrics.METRICS,
  *set_metrics.RANDOM,
  *RECONSTRUCTION,
  'scene_accuracy',
  'neighbours',
)


@dataclasses.dataclass(frozen=True)
class Options:
  """What is asked for; '' and () mean that it was not said."""

  workdir: str = ''
  step: int | None = None
  samples: str = ''
  reference: str = ''
  metrics: tuple[str, ...] = ()
  num: int = 1000
  reference_num: int = 0  # 0: all
  inputs: str = ''
  masks: str = ''
  batch_size: int = 50
  inception: str = ''
  vgg: str = ''
  lpips: str = ''
  cache: str = ''
  out: str = ''
  save_npz: str = ''
  settings: Settings = Settings()
  seed: int = 0
  protocol: protocols.Protocol = protocols.PROTOCOLS['torch-fidelity']

  def __post_init__(self):
    for name in self.metrics:
      if name not in NAMES:
        raise UserError(
          f'--metrics={name!r} is unknown; known: {", ".join(NAMES)}.'
        )
    if not self.workdir and not self.samples:
      raise UserError('Give --workdir, a run, or --samples, a folder.')
    if self.masks:
      masks.check(self.masks, '--masks')
      if self.samples:
        raise UserError(
          f'--masks={self.masks} is what a run fills in, and --samples are '
          'drawn already; give one of them.'
        )
    if self.num < 1 or self.batch_size < 1 or self.reference_num < 0:
      raise UserError(
        f'--num={self.num}, --batch_size={self.batch_size}: at least 1.'
      )
