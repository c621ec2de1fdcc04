"""Embeddings pass through, checked."""

import numpy as np
import pytest

from ldm_jax import build
from ldm_jax.types import UserError

CONDITIONER, PREPARE = build.task({'name': 'retrieval', 'width': 8})
EMBEDDINGS = np.random.default_rng(0).standard_normal((2, 5, 8))


def test_the_unet_reads_what_is_given():
  batch = PREPARE.arrays({'embeddings': EMBEDDINGS})
  told = CONDITIONER.apply({}, batch, None, False)
  np.testing.assert_array_equal(told.context, np.float32(EMBEDDINGS))
  null = CONDITIONER.apply({}, CONDITIONER.null(batch), None, False)
  assert null.context.shape == (2, 5, 8) and not null.context.any()


def test_blank_is_an_example():
  blank = PREPARE.blank(64)
  assert PREPARE.arrays(blank)['embeddings'].shape == (20, 8)


@pytest.mark.parametrize('given', [{}, {'embeddings': np.zeros((2, 7))}])
def test_mistakes_are_named(given):
  with pytest.raises(UserError, match='embeddings'):
    PREPARE.arrays(given)
