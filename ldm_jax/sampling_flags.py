"""How to sample, as flags: the same ones of sample.py and of evaluate.py."""

from ldm_jax import cli
from ldm_jax.diffusion import SOLVERS
from ldm_jax.diffusion.sampling import SPACINGS
from ldm_jax.diffusion.settings import Settings
from ldm_jax.types import UserError

_STEPS = cli.integer('steps', 50, 'Sampling steps.')
_SAMPLER = cli.string(
  'sampler', 'ddim', f'{", ".join(SOLVERS)}; see docs/sampling.md.'
)
_SPACING = cli.string(
  'spacing',
  '',
  f"Timesteps: {', '.join(SPACINGS)}; the sampler's own if unset.",
)
_ETA = cli.number(
  'eta', 0.0, 'Of the sampler ddim: 0 deterministic, 1 ancestral.'
)
_GUIDANCE = cli.number(
  'guidance', 1.0, 'Classifier-free scale; 1 is the conditional model.'
)
_GUIDANCE_INTERVAL = cli.strings(
  'guidance_interval', None, 'LOW,HIGH timesteps; guidance is 1 outside.'
)
_GUIDANCE_RESCALE = cli.number(
  'guidance_rescale',
  0.0,
  'How far, from 0 to 1, guided predictions get the spread of unguided ones.',
)
_THRESHOLD = cli.number(
  'threshold', 0.0, 'Quantile of dynamic thresholding, such as 0.995; 0: none.'
)
_THRESHOLD_RANGE = cli.number(
  'threshold_range',
  0.0,
  'Where thresholded data ends; needed for latents, 1 for pixels.',
)


def settings() -> Settings:
  """What they say; raises UserError."""
  interval = _GUIDANCE_INTERVAL.value
  try:
    interval = interval and tuple(float(t) for t in interval)
  except ValueError:
    raise UserError(
      f'--guidance_interval={",".join(interval)} must be two timesteps, such '
      'as 100,700.'
    ) from None
  return Settings(
    steps=_STEPS.value,
    sampler=_SAMPLER.value,
    eta=_ETA.value,
    guidance=_GUIDANCE.value,
    spacing=_SPACING.value,
    guidance_interval=interval or None,
    guidance_rescale=_GUIDANCE_RESCALE.value,
    threshold=_THRESHOLD.value,
    threshold_range=_THRESHOLD_RANGE.value,
  )
