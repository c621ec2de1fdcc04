"""VGG-16 takes exactly what torchvision's file holds; see tests/parity."""

import jax
import numpy as np
import pytest

from ldm_jax.evaluation import vgg
from ldm_jax.types import UserError
from tests.evaluation import released


def test_its_shapes_are_the_files():
  shapes = jax.tree.leaves(vgg.shapes(), is_leaf=lambda s: isinstance(s, tuple))
  theirs = released.SHAPES['vgg16_torchvision']
  used = [s for n, s in theirs.items() if not n.startswith('classifier.6')]
  count = lambda shapes: sorted(int(np.prod(s)) for s in shapes)
  assert count(shapes) == count(used)


def test_what_is_missing_is_named():
  with pytest.raises(UserError, match='classifier.0.bias is missing'):
    vgg.params_from_arrays({})
  with pytest.raises(UserError, match='--vgg.*vgg16-397923af.pth'):
    vgg.load(None, None)
