"""What is known stays; what is not is drawn as the release draws it."""

import jax
import numpy as np
import pytest

from ldm_jax.diffusion import SOLVERS, editing, sampling
from ldm_jax.diffusion.schedule import make
from ldm_jax.types import UserError
from tests.diffusion import oracles

SCHEDULE = make(num_timesteps=200)
SHAPE = (2, 4, 6, 3)
Z_0 = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
KNOWN = np.zeros((*SHAPE[:3], 1), np.float32)
KNOWN[:, :, :2] = 1


def draw(denoise, solver, steps=8, strength=1.0, eta=0.0, whole=False):
  levels = editing.shortened(sampling.levels(SCHEDULE, steps), strength)
  table = SOLVERS[solver](levels, eta)
  keys = sampling.image_keys(3, 0, SHAPE[0])
  noise = sampling.initial_noise(keys, SHAPE[1:])
  level = editing.first_level(levels)
  start = editing.Start(Z_0, KNOWN, level, np.bool_(whole))
  z = start.begin(noise)
  return noise, np.asarray(sampling.sample(denoise, table, z, keys))


def neighbours(z, t):
  """A network that looks around: its answer mixes known and unknown."""
  del t
  return 0.3 * z + 0.4 * jax.numpy.roll(z, 1, axis=2)


@pytest.mark.parametrize('solver', ['ddim', 'plms', 'unipc', 'heun'])
def test_known_latents_are_kept_by_solvers_of_all_kinds(solver):
  denoise = editing.masked(neighbours, SCHEDULE, Z_0, KNOWN)
  _, z = draw(denoise, solver)
  np.testing.assert_allclose(z[:, :, :2], Z_0[:, :, :2], atol=2e-4)
  assert np.abs(z[:, :, 2:] - Z_0[:, :, 2:]).mean() > 0.1


def test_it_is_the_releases_masked_ddim():
  # Its loop: img = q_sample(x0, t) * mask + (1 - mask) * img, then a step.
  levels = sampling.levels(SCHEDULE, 8)
  noise, z = draw(editing.masked(neighbours, SCHEDULE, Z_0, KNOWN), 'ddim')
  img = np.asarray(noise, np.float64)
  for a, a_next in zip(levels.alpha_bar[::-1], levels.alpha_bar_next[::-1]):
    q_sample = np.sqrt(a) * Z_0 + np.sqrt(1 - a) * np.asarray(noise)
    img = q_sample * KNOWN + (1 - KNOWN) * img
    eps = np.asarray(neighbours(img, None))
    x_0 = (img - np.sqrt(1 - a) * eps) / np.sqrt(a)
    img = np.sqrt(a_next) * x_0 + np.sqrt(1 - a_next) * eps
  np.testing.assert_allclose(z[:, :, 2:], img[:, :, 2:], atol=1e-4)


@pytest.mark.parametrize('solver', ['ddim', 'dpmpp_2m'])
def test_the_flow_of_a_gaussian_brings_an_image_back(solver):
  # Noised with the very noise that its own flow leads to, a latent returns.
  denoise = oracles.one_point(SCHEDULE, Z_0)
  for strength in (0.25, 1.0):
    _, z = draw(denoise, solver, strength=strength, whole=True)
    np.testing.assert_allclose(z, Z_0, atol=2e-3)


def test_more_strength_goes_further_from_the_image():
  denoise = lambda z, t: SCHEDULE.at(t)[1] * z  # Of data from N(0, I).
  far = [
    np.abs(draw(denoise, 'ddim', 20, s, whole=True)[1] - Z_0).mean()
    for s in (0.1, 0.4, 0.7, 1.0)
  ]
  assert far == sorted(far) and far[0] < 0.15 < 0.5 < far[-1]


def test_strength_is_a_share_of_the_steps():
  levels = sampling.levels(SCHEDULE, 10)
  assert len(editing.shortened(levels, 0.6).t) == 6
  assert len(editing.shortened(levels, 0.0).t) == 0
  np.testing.assert_array_equal(editing.shortened(levels, 1.0).t, levels.t)
  for wrong in (-0.1, 1.5):
    with pytest.raises(UserError, match=f'strength={wrong} is outside'):
      editing.shortened(levels, wrong)
