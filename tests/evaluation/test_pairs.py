"""Metrics of pairs are means over all of them, whatever the batches."""

import jax.numpy as jnp
import numpy as np

from ldm_jax.evaluation import pairs, reconstruction, ssim
from ldm_jax.first_stage import lpips

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (5, 16, 16, 3), np.uint8)
Y = np.clip(X + RNG.normal(0, 9, X.shape), 0, 255).astype(np.uint8)


def test_means_over_uneven_batches():
  batches = [(X[:3], Y[:3]), (X[3:], Y[3:])]
  found = pairs.compute(('psnr', 'ssim', 'ssim_zero'), batches)
  assert found['pairs'] == 5
  np.testing.assert_allclose(
    found['psnr'], reconstruction.psnr(X, Y, 255).mean()
  )
  np.testing.assert_allclose(found['ssim'], ssim.ssim(X, Y).mean(), rtol=1e-6)
  padded = ssim.ssim(X, Y, padding='zero').mean()
  np.testing.assert_allclose(found['ssim_zero'], padded, rtol=1e-6)
  assert found['ssim_zero'] != found['ssim']


class Farthest:
  """In the network's place, which tests/first_stage has: |x - y| at most."""

  def apply(self, variables, x, y):
    return variables['params'] * jnp.max(jnp.abs(x - y), axis=(1, 2, 3))


def test_lpips_takes_pixels_to_its_own_range(monkeypatch):
  monkeypatch.setattr(lpips, 'LPIPS', Farthest)
  black, white = np.zeros_like(X), np.full_like(X, 255)
  batches = [(black[:2], white[:2]), (black[2:], black[2:])]
  found = pairs.compute(('lpips',), batches, np.float32(3))
  np.testing.assert_allclose(found['lpips'], 3 * 2 * 2 / 5, rtol=1e-6)
