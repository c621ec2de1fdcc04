"""What is said of a first stage whose faults are known."""

import numpy as np
import pytest

from ldm_jax.evaluation import first_stage_metrics, random_features
from ldm_jax.evaluation.image_sets import ImageSet
from ldm_jax.types import UserError

IMAGES = np.random.default_rng(0).integers(30, 200, (21, 16, 16, 3), np.uint8)
SET = ImageSet('images', 21, lambda i: IMAGES[i], lambda: '')
NETWORKS = {'random_rfrechet': random_features.network()}
NAMES = ('psnr', 'ssim', 'random_rfrechet', 'codebook')


def of_run(change, codes=None, names=NAMES, num_codes=4):
  reconstruct = lambda x: (change(x), codes(x) if codes else None)
  return first_stage_metrics.of_run(
    names, SET, reconstruct, 8, NETWORKS, num_codes=num_codes
  )


def test_the_identity_is_perfect():
  found = of_run(lambda x: x, lambda x: np.arange(len(x)) % 4)
  assert found['psnr'] == np.inf and found['random_rfrechet'] < 1e-6
  np.testing.assert_allclose(found['ssim'], 1, rtol=1e-6)
  assert found['pairs'] == 21 and found['codebook_usage'] == 1


def test_a_shift_of_ten_levels_is_28_decibels():
  found = of_run(lambda x: x + 10 / 127.5, lambda x: np.zeros(len(x), int))
  np.testing.assert_allclose(found['psnr'], 20 * np.log10(25.5), rtol=1e-6)
  assert found['codebook_usage'] == 0.25
  assert found['random_rfrechet'] > 0.01


def test_no_codebook_is_said():
  with pytest.raises(UserError, match='VQ'):
    of_run(lambda x: x, num_codes=0)


def test_two_sets_pair_by_pair():
  other = ImageSet('other', 21, lambda i: IMAGES[i] + 10, lambda: '')
  found = first_stage_metrics.of_sets(('psnr',), SET, other, 8)
  np.testing.assert_allclose(found['psnr'], 20 * np.log10(25.5))
  with pytest.raises(UserError, match='9 samples and 21 references'):
    first_stage_metrics.of_sets(('psnr',), SET, other.first(9), 8)
  with pytest.raises(UserError, match='--metrics=rfid needs --workdir'):
    first_stage_metrics.of_sets(('rfid',), SET, other, 8)
