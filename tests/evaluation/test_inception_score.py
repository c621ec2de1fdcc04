"""The Inception Score of known predictions."""

import numpy as np

from ldm_jax.evaluation.inception_score import inception_score

RNG = np.random.default_rng(0)


def by_definition(p):
  marginal = p.mean(0)
  kl = [sum(q * np.log(q / marginal)) for q in p]
  return np.exp(np.mean(kl))


def softmax(x):
  return np.exp(x) / np.exp(x).sum(1, keepdims=True)


def test_sure_and_balanced_predictions_score_their_classes():
  logits = 1000.0 * np.eye(8)[np.arange(80) % 8]
  found = inception_score(logits, splits=1)
  np.testing.assert_allclose(found['is'], 8, rtol=1e-9)
  assert found['is_std'] == 0


def test_predictions_that_say_nothing_score_one():
  found = inception_score(np.ones((50, 8)))
  np.testing.assert_allclose(found['is'], 1, rtol=1e-12)


def test_splits_of_shuffled_predictions():
  logits = 3 * RNG.standard_normal((103, 12))
  p = softmax(logits)[np.random.RandomState(2020).permutation(103)]
  parts = [by_definition(p[i * 103 // 10 : (i + 1) * 103 // 10])
           for i in range(10)]  # fmt: skip
  found = inception_score(logits)
  np.testing.assert_allclose(found['is'], np.mean(parts), rtol=1e-9)
  np.testing.assert_allclose(found['is_std'], np.std(parts), rtol=1e-9)


def test_parts_of_a_size_in_order():
  logits = 3 * RNG.standard_normal((103, 12))
  p = softmax(logits)
  parts = [by_definition(p[i : i + 40]) for i in (0, 40, 80)]
  found = inception_score(logits, split_size=40, shuffle_seed=None)
  np.testing.assert_allclose(found['is'], np.mean(parts), rtol=1e-9)


def test_sure_logits_do_not_overflow():
  assert np.isfinite(inception_score(1e4 * RNG.standard_normal((20, 5)))['is'])
