"""The metrics beside torch-fidelity's own; skipped where it is not installed.

pip install torch-fidelity torchvision
"""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('torchvision')
pytest.importorskip('torch_fidelity')

from torch_fidelity import (  # noqa: E402
  metric_fid,
  metric_isc,
  metric_kid,
  metric_prc,
)

from ldm_jax.evaluation import (  # noqa: E402
  inception_score,
  kid,
  manifold,
  moments,
)
from ldm_jax.evaluation.frechet import frechet_distance  # noqa: E402

pytestmark = pytest.mark.parity
RNG = np.random.default_rng(0)
MIX = RNG.standard_normal((2048, 2048), np.float32) / 45
SETTINGS = dict(
  verbose=False,
  rng_seed=2020,
  kid_subsets=10,
  kid_subset_size=1000,
  kid_degree=3,
  kid_gamma=None,
  kid_coef0=1,
  kid_kernel='poly',
  prc_neighborhood=3,
  prc_batch_size=10_000,
  save_cpu_ram=False,
)


def features(count, shift):
  """Correlated and not negative, as those of the pool are."""
  rows = RNG.standard_normal((count, 2048), np.float32) @ MIX
  return np.abs(0.4 * rows + 0.3 + shift)


SAMPLES, REFERENCE = features(2600, 0.0), features(2400, 0.02)
THEIRS = torch.from_numpy(SAMPLES), torch.from_numpy(REFERENCE)


def test_fid():
  stats = [metric_fid.fid_features_to_statistics(x) for x in THEIRS]
  theirs = metric_fid.fid_statistics_to_metric(*stats, False)
  ours = [moments.of([x]) for x in (SAMPLES, REFERENCE)]
  pairs = [x for m in ours for x in (m.mean, m.covariance)]
  np.testing.assert_allclose(
    frechet_distance(*pairs), *theirs.values(), rtol=1e-6
  )


def test_kid():
  theirs = metric_kid.kid_features_to_metric(*THEIRS, **SETTINGS)
  ours = kid.kid(SAMPLES, REFERENCE, subsets=10)
  # Theirs sums a million kernels of about 1 in float32.
  np.testing.assert_allclose(
    list(ours.values()), list(theirs.values()), rtol=1e-4, atol=5e-7
  )


def test_inception_score():
  logits = 6 * SAMPLES[:, :1008]
  theirs = metric_isc.isc_features_to_metric(
    torch.from_numpy(logits.copy()), splits=10, shuffle=True, rng_seed=2020
  )
  ours = inception_score.inception_score(logits)
  np.testing.assert_allclose(
    list(ours.values()), list(theirs.values()), rtol=1e-9
  )


def test_precision_and_recall():
  """As of 0.4: before it the two names were exchanged."""
  theirs = metric_prc.prc_features_to_metric(*THEIRS, **SETTINGS)
  ours = manifold.precision_recall(REFERENCE, SAMPLES)
  for name, value in ours.items():
    np.testing.assert_allclose(value, theirs[name], rtol=1e-6)
