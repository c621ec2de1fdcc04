"""Streamed moments are those of all rows at once, in the same memory."""

import tracemalloc

import numpy as np
import pytest

from ldm_jax.evaluation import moments

# Far from zero: where E[x^2] - E[x]^2 would lose everything.
ROWS = 1e4 + np.random.default_rng(0).standard_normal((5000, 20))


def assert_all_at_once(found, rows, rtol=1e-8):
  assert found.count == len(rows)
  np.testing.assert_allclose(found.mean, rows.mean(0), rtol=rtol)
  cov = np.cov(rows, rowvar=False)
  scale = np.abs(cov).max()
  np.testing.assert_allclose(found.covariance, cov, rtol=0, atol=rtol * scale)


@pytest.mark.parametrize('size', [1, 7, 1500, 5000])
def test_whatever_the_batches(size):
  found = moments.of(ROWS[i : i + size] for i in range(0, 5000, size))
  assert_all_at_once(found, ROWS)


def stream(count, dim):
  for i in range(0, count, 250):
    rng = np.random.default_rng(i)
    yield rng.random((min(250, count - i), dim), np.float32)


def peak_of(count, dim):
  tracemalloc.start()
  moments.of(stream(count, dim)).covariance  # noqa: B018
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  return peak


def test_memory_does_not_grow():
  assert peak_of(20_000, 128) < 1.05 * peak_of(2_000, 128)


@pytest.mark.slow
def test_fifty_thousand_features_of_inceptions_width():
  assert peak_of(50_000, 2048) < 1.05 * peak_of(5_000, 2048)
  rows = np.concatenate(list(stream(50_000, 2048))).astype(np.float64)
  assert_all_at_once(moments.of(stream(50_000, 2048)), rows)


def test_what_has_no_covariance():
  with pytest.raises(ValueError, match='1 rows'):
    moments.of([ROWS[:1]]).covariance  # noqa: B018
  with pytest.raises(ValueError, match='no features'):
    moments.of([])
