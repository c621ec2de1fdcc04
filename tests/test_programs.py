"""Programs of a small untrained run, without the pipeline around them."""

import dataclasses

import jax
import numpy as np

from ldm_jax.diffusion import sampling, schedule
from ldm_jax.diffusion.settings import Settings
from ldm_jax.programs import Programs
from tests import untrained


def test_a_model_whose_last_timestep_is_noise_alone_can_be_sampled():
  """Where there is no signal v tells z_0; dividing by it, eps could not."""
  ldm = untrained.unconditional()
  parts = dataclasses.replace(
    ldm.parts,
    schedule=schedule.make('linear', zero_terminal_snr=True),
    loss=dataclasses.replace(ldm.parts.loss, prediction='v'),
  )
  programs, (weights, frozen) = Programs(parts), ldm.program[1]
  keys = sampling.image_keys(0, 0, 2)
  noise = sampling.initial_noise(keys, parts.latent_shape)
  cond = programs.condition(weights, frozen, {'batch': np.zeros(2)})
  last = np.full(2, 999)

  @jax.jit
  def one_step(weights, frozen, noise, keys, cond):
    settings = Settings(1, spacing='trailing')
    plan = settings.plan(parts.schedule, pixels=False)
    z = programs.walk(weights, frozen, plan, noise, keys, cond, None)
    return z, programs.denoise(weights, noise, last, cond)

  z, eps = one_step(weights, frozen, noise, keys, cond)
  signal, sigma = parts.schedule.at(last)
  v = (eps - sigma * noise) / signal
  np.testing.assert_allclose(z, -v, atol=0.01)
  assert 0.01 < np.std(z) < 10
