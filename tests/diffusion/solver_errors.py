"""How far each solver ends from the exact flow, on the paper's schedule.

python -m tests.diffusion.solver_errors
"""

import numpy as np

from ldm_jax.diffusion import SOLVERS, sampling, schedule
from tests.diffusion.oracles import MIXTURE, follow

SCHEDULE = schedule.make('linear', 1000, 0.0015, 0.0195)
DETERMINISTIC = ('ddim', 'plms', 'heun', 'dpmpp_2m', 'unipc')
EVALUATIONS = (5, 9, 15, 25, 51)


def error(sampler, spacing, steps, curve=SCHEDULE, points=64):
  """RMS distance, at the data, from the flow that begins where it begins.

  Data is `oracles.MIXTURE` in three dimensions, whose own spread is about 1;
  everything in float64.
  """
  levels = sampling.levels(curve, steps, spacing)
  z = np.random.default_rng(0).normal(size=(points, 3))

  def eps_at(z, t):
    near = np.flatnonzero(levels.t == t)[0]
    a = levels.alpha_bar[near]
    return MIXTURE.eps(z, np.sqrt(a), np.sqrt(1 - a))

  result = follow(SOLVERS[sampler](levels), z, eps_at)
  exact = MIXTURE.flow(z, levels.alpha_bar[-1], 1.0)
  return np.sqrt(np.mean((result - exact) ** 2))


def steps_of(sampler, evaluations):
  """How many steps so many questions to the denoiser are."""
  return {
    'heun': (evaluations + 1) // 2,
    'plms': evaluations - 1,
  }.get(sampler, evaluations)


def main():
  for spacing in sampling.SPACINGS:
    if spacing == 'compvis':
      continue  # It stops short of the data.
    print(f'{spacing:20}', *(f'{n:8}' for n in EVALUATIONS))
    for sampler in DETERMINISTIC:
      if sampler == 'plms' and spacing in ('karras', 'log_snr'):
        continue
      errors = [
        error(sampler, spacing, steps_of(sampler, n)) for n in EVALUATIONS
      ]
      print(f'  {sampler:18}', *(f'{e:8.5f}' for e in errors))


if __name__ == '__main__':
  main()
