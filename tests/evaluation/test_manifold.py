"""k-NN metrics against scikit-learn's neighbours."""

import numpy as np
import pytest

from ldm_jax.evaluation import manifold
from ldm_jax.types import UserError

RNG = np.random.default_rng(0)
A = RNG.standard_normal((403, 12)) + 5  # Far from the origin.
B = 0.8 * RNG.standard_normal((351, 12)) + 5.3


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(manifold, '_ROWS', 100)
  monkeypatch.setattr(manifold, '_COLUMNS', 130)


def by_sklearn(a, b, k):
  neighbors = pytest.importorskip('sklearn.neighbors')
  pairwise = pytest.importorskip('sklearn.metrics').pairwise_distances

  def reach(x):
    tree = neighbors.NearestNeighbors(n_neighbors=k).fit(x)
    return tree.kneighbors()[0][:, -1]  # Itself is left out.

  d, ra, rb = pairwise(a, b), reach(a)[:, None], reach(b)[None]
  return {
    'precision': (d <= ra).any(0).mean(),
    'recall': (d <= rb).any(1).mean(),
    'density': (d < ra).sum(0).mean() / k,
    'coverage': (d.min(1) < ra[:, 0]).mean(),
  }


@pytest.mark.parametrize('k', [1, 3, 5])
def test_sklearn_agrees(k):
  found = manifold.precision_recall(A, B, k=k)
  found |= manifold.density_coverage(A, B, k=k)
  for name, value in by_sklearn(A, B, k).items():
    np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
    assert 0 < value


def test_a_set_covers_itself_and_not_what_is_far():
  same = manifold.precision_recall(A, A) | manifold.density_coverage(A, A)
  assert same['precision'] == same['recall'] == same['coverage'] == 1
  far = manifold.precision_recall(A, A + 100)
  far |= manifold.density_coverage(A, A + 100)
  assert set(far.values()) == {0.0}


def test_half_precision_is_near_and_ties():
  exact = manifold.precision_recall(A, B)
  half = manifold.precision_recall(A, B, half=True)
  assert half != exact
  for name in exact:
    assert abs(half[name] - exact[name]) < 0.1
  # Where float16 overflows the distances are float32's.
  assert manifold.precision_recall(300 * A, 300 * B, half=True) == exact


def test_half_precision_rounds_every_operation():
  u, v = (x[:40].astype(np.float16) for x in (A, B))
  norm = lambda x: np.sum(np.float32(x * x), 1).astype(np.float16)
  dot = (u.astype(np.float32) @ v.T.astype(np.float32)).astype(np.float16)
  expected = norm(u)[:, None] - np.float16(2) * dot + norm(v)
  found = manifold._squared(np.float32(A[:40]), np.float32(B[:40]), True)
  np.testing.assert_array_equal(found, np.maximum(expected, 0))


def test_too_few_images():
  with pytest.raises(UserError, match='3 images'):
    manifold.radii(A[:3], 3)
