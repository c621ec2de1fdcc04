"""Guided draws are draws of the posterior, and obey their target more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import SOLVERS, gradient_guidance, sampling
from ldm_jax.diffusion.schedule import make

SCHEDULE = make(num_timesteps=1000)
SHAPE = (8, 8, 3)
# A linear "decoder": every latent becomes a square of four pixels.
MIX = jnp.asarray(
  np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0], jnp.float32
)


def decode(z):
  return jnp.repeat(jnp.repeat(z @ MIX, 2, 1), 2, 2) / 2


def unit_gaussian(z, t):
  """The perfect denoiser of data from N(0, I)."""
  return SCHEDULE.at(t)[1] * z


def draw(denoise, num, steps=50):
  keys = sampling.image_keys(0, 0, num)
  noise = sampling.initial_noise(keys, SHAPE)
  table = SOLVERS['ddim'](sampling.levels(SCHEDULE, steps), 0.0)
  return np.asarray(sampling.sample(denoise, table, noise, keys))


TRANSFORMS = {
  'downsampling': lambda x: jax.image.resize(
    x, (*x.shape[:1], 4, 4, 3), 'cubic', antialias=True
  ),
  'mask': lambda x: x * (jnp.arange(16) < 7)[None, :, None, None],
}


@pytest.mark.parametrize('name', TRANSFORMS)
def test_psnr_of_the_transform_rises_with_scale(name):
  transform = TRANSFORMS[name]
  target = np.tanh(np.random.default_rng(2).standard_normal((2, 16, 16, 3)))
  target = np.float32(target)

  def psnr(scale):
    distance = lambda x: jnp.sum(
      jnp.square(transform(x) - transform(target)), (1, 2, 3)
    )
    denoise = gradient_guidance.by_image(
      unit_gaussian, SCHEDULE, decode, distance, scale
    )
    error = transform(decode(draw(denoise, 2))) - transform(target)
    return 10 * np.log10(4 / np.mean(np.square(error)))

  found = [psnr(scale) for scale in (0.0, 1.0, 3.0, 10.0)]
  assert found == sorted(found) and found[-1] > found[0] + 2


def test_a_classifier_shifts_a_gaussian_by_bayes():
  # Data N(0, I), y = z_0 + N(0, I): z_0 given y is N(y / 2, 1/2). Of z_t, y is
  # N(signal z_t, 1 + noise^2), since z_0 given z_t is N(signal z_t, noise^2).
  y = 1.5

  def log_p(z, t):
    signal, noise = SCHEDULE.at(t)
    error = jnp.square(y - signal * z) / (1 + noise**2)
    return -jnp.sum(error, (1, 2, 3)) / 2

  denoise = gradient_guidance.by_classifier(unit_gaussian, SCHEDULE, log_p, 1.0)
  z = draw(denoise, 16, steps=250)
  assert abs(z.mean() - y / 2) < 0.03
  assert abs(z.var() - 1 / 2) < 0.03


def test_scale_zero_is_no_guidance():
  plain = draw(unit_gaussian, 1)
  guided = gradient_guidance.by_classifier(
    unit_gaussian, SCHEDULE, lambda z, t: jnp.sum(z, (1, 2, 3)), 0.0
  )
  np.testing.assert_array_equal(draw(guided, 1), plain)
