"""How far each solver ends from the exact flow.

python -m tests.diffusion.solver_errors             # a mixture of Gaussians
python -m tests.diffusion.solver_errors runs/text   # a trained model
"""

import sys

import numpy as np

from ldm_jax.diffusion import SOLVERS, sampling, schedule
from tests.diffusion.oracles import MIXTURE, follow

SCHEDULE = schedule.make('linear', 1000, 0.0015, 0.0195)
DETERMINISTIC = ('ddim', 'plms', 'heun', 'dpmpp_2m', 'unipc')
EVALUATIONS = (5, 9, 15, 25, 51)
SPACINGS = ('leading', 'trailing', 'karras', 'log_snr')


def error(sampler, spacing, steps, curve=SCHEDULE, points=64):
  """RMS distance, at the data, from the flow that begins where it begins.

  Data is `oracles.MIXTURE` in three dimensions, whose own spread is about 1;
  everything in float64.
  """
  levels = sampling.levels(curve, steps, spacing)
  z = np.random.default_rng(0).normal(size=(points, 3))
  level = dict(zip(levels.t, levels.alpha_bar))

  def eps_at(z, t):
    return MIXTURE.eps(z, np.sqrt(level[t]), np.sqrt(1 - level[t]))

  result = follow(SOLVERS[sampler](levels), z, eps_at)
  exact = MIXTURE.flow(z, levels.alpha_bar[-1], 1.0)
  return np.sqrt(np.mean((result - exact) ** 2))


def steps_of(sampler, evaluations):
  """How many steps so many questions to the denoiser are."""
  return {
    'heun': (evaluations + 1) // 2,
    'plms': evaluations - 1,
  }.get(sampler, evaluations)


def error_of_run(workdir, guidance, images=16):
  """(sampler, spacing, steps) -> RMS distance in the latents of a run.

  From what Heun's method gives in 200 steps, for conditions of the evaluation
  split.
  """
  import ldm_jax
  from ldm_jax.data import given, sources

  ldm = ldm_jax.load(workdir)
  parts = ldm.parts
  source = sources.open_source(parts.data, parts.data.eval_split)
  _, inputs = given.conditions(source, parts.prepare, parts.data, images, 0)
  told = ldm.condition(inputs), ldm.null_condition(inputs)
  keys = sampling.image_keys(0, 0, images)
  noise = sampling.initial_noise(keys, parts.latent_shape)

  def latents(sampler, spacing, steps):
    return np.asarray(
      ldm.sample_latents(
        noise, *told, guidance=guidance, sampler=sampler, spacing=spacing,
        steps=steps,
      )
    )  # fmt: skip

  limit = latents('heun', 'log_snr', 200)
  return lambda *how: np.sqrt(np.mean((latents(*how) - limit) ** 2))


def main(workdir=None, guidance='1'):
  spacings, counts, measure = SPACINGS, EVALUATIONS, error
  if workdir:  # Each count is a program: compiling is all of the time.
    spacings, counts = ('leading', 'log_snr'), (15, 50)
    measure = error_of_run(workdir, float(guidance))
  for spacing in spacings:
    print(f'{spacing:20}', *(f'{n:8}' for n in counts))
    for sampler in DETERMINISTIC:
      if sampler == 'plms' and spacing in ('karras', 'log_snr'):
        continue
      errors = [measure(sampler, spacing, steps_of(sampler, n)) for n in counts]
      print(f'  {sampler:18}', *(f'{e:8.5f}' for e in errors), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
