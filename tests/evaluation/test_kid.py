"""KID against the sums of its definition, and what it estimates."""

import numpy as np
import pytest

from ldm_jax.evaluation import kid
from ldm_jax.types import UserError

RNG = np.random.default_rng(0)
X, Y = RNG.random((60, 16)), RNG.random((70, 16)) ** 1.2


def by_definition(x, y):
  k = lambda a, b: (sum(a * b) / len(a) + 1) ** 3
  m = len(x)
  pairs = [(i, j) for i in range(m) for j in range(m)]
  apart = [(i, j) for i, j in pairs if i != j]
  mean = lambda values: sum(values) / len(values)
  return (
    mean([k(x[i], x[j]) for i, j in apart])
    + mean([k(y[i], y[j]) for i, j in apart])
    - 2 * mean([k(x[i], y[j]) for i, j in pairs])
  )


def test_the_estimate_is_its_definition():
  np.testing.assert_allclose(
    kid.squared_mmd(X[:20], Y[:20]), by_definition(X[:20], Y[:20]), rtol=1e-9
  )


def test_subsets_are_drawn_as_torch_fidelity_draws_them():
  rng = np.random.RandomState(2020)
  found = []
  for _ in range(5):
    x = X[rng.choice(60, 12, replace=False)]
    y = Y[rng.choice(70, 12, replace=False)]
    found.append(by_definition(x, y))
  got = kid.kid(X, Y, subsets=5, subset_size=12)
  np.testing.assert_allclose(got['kid'], np.mean(found), rtol=1e-6)
  np.testing.assert_allclose(got['kid_std'], np.std(found), rtol=1e-6)


def test_one_distribution_has_none_on_average_and_others_have():
  a, b = RNG.standard_normal((2, 2000, 8))
  same = kid.kid(a, b, subset_size=500, subsets=50)
  other = kid.kid(a, b + 0.5, subset_size=500, subsets=50)
  assert abs(same['kid']) < 0.05 * other['kid']


def test_float32_features_lose_nothing():
  x, y = X.astype(np.float32), Y.astype(np.float32)
  small = kid.kid(x, y, subsets=3, subset_size=50)
  wide = kid.kid(x * 1.0, y.astype(np.float64), subsets=3, subset_size=50)
  np.testing.assert_allclose(small['kid'], wide['kid'], rtol=1e-9)


def test_too_few_images_name_the_option():
  with pytest.raises(UserError, match='--kid_subset_size'):
    kid.kid(X, Y)
