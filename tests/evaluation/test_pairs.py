"""Metrics of pairs are means over all of them, whatever the batches."""

import numpy as np

from ldm_jax.evaluation import pairs, reconstruction, ssim
from ldm_jax.first_stage import lpips
from tests.evaluation import released

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (5, 16, 16, 3), np.uint8)
Y = np.clip(X + RNG.normal(0, 9, X.shape), 0, 255).astype(np.uint8)


def test_means_over_uneven_batches():
  batches = [(X[:3], Y[:3]), (X[3:], Y[3:])]
  found = pairs.compute(('psnr', 'ssim'), batches)
  assert found['pairs'] == 5
  np.testing.assert_allclose(
    found['psnr'], reconstruction.psnr(X, Y, 255).mean()
  )
  np.testing.assert_allclose(found['ssim'], ssim.ssim(X, Y).mean(), rtol=1e-6)


def test_lpips_takes_pixels_to_its_own_range():
  params = lpips.params_from_arrays(released.lpips())
  found = pairs.compute(('lpips',), [(X[:2], Y[:2])], params)
  scaled = [x[:2] / np.float32(127.5) - 1 for x in (X, Y)]
  expected = lpips.LPIPS().apply({'params': params}, *scaled)
  np.testing.assert_allclose(found['lpips'], np.mean(expected), rtol=1e-4)
