"""How much of a codebook is used, for known uses."""

import numpy as np

from ldm_jax.evaluation.codebook import Usage


def test_usage_and_perplexity():
  usage = Usage(8)
  usage.add(np.array([[0, 1], [2, 3]]))
  usage.add(np.array([0, 1, 2, 3]))
  found = usage.result()
  assert found['codebook_usage'] == 0.5
  np.testing.assert_allclose(found['codebook_perplexity'], 4)


def test_one_code_alone():
  usage = Usage(16)
  usage.add(np.full((5, 5), 3))
  found = usage.result()
  assert found['codebook_usage'] == 1 / 16
  np.testing.assert_allclose(found['codebook_perplexity'], 1)
