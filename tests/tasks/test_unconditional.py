"""No condition: nothing is told, and the null is the same."""

import numpy as np

from ldm_jax.tasks.unconditional import Prepare, Unconditional
from ldm_jax.types import Conditioning


def test_nothing_is_told():
  conditioner = Unconditional()
  assert conditioner.apply({}, {}, None, False) == Conditioning()
  batch = {'image': np.zeros((1, 2, 2, 3))}
  assert conditioner.null(batch) is batch


def test_labels_are_dropped():
  example = {'image': np.zeros((2, 2, 3)), 'label': 3}
  assert set(Prepare()(example, None)) == {'image'}
