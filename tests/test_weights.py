"""What a config wants of weights."""

import copy

import jax
import numpy as np
import pytest

from ldm_jax import build, weights
from ldm_jax.types import UserError
from tests import tiny


@pytest.fixture(scope='module')
def config():
  return tiny.diffusion()


def test_untrained_weights_fit(config):
  items = weights.untrained(config)
  assert items.keys() == {'first_stage', 'model', 'ema'}
  weights.check(build.parts(config), items)
  carried = {**items, 'carried': {'loss.x': np.zeros(3)}}
  weights.check(build.parts(config), carried)
  for path, x in weights.flat(items).items():
    assert (x == 1).all() if path[-1] == 'scale' else np.isfinite(x).all()


def test_everything_that_does_not_fit_is_named(config):
  items = copy.deepcopy(weights.untrained(config))
  unet = items['model']['unet']
  unet['conv_in']['kernel'] = unet['conv_in']['kernel'][..., :3]
  del unet['conv_out']['bias']
  unet['more'] = {'bias': np.zeros(2)}
  with pytest.raises(UserError) as error:
    weights.check(build.parts(config), items)
  for words in (
    'model/unet/conv_in/kernel: [3, 3, 3, 3] instead of [3, 3, 3, 16]',
    'model/unet/conv_out/bias: nothing instead of [3]',
    'model/unet/more/bias: [2] instead of nothing',
  ):
    assert words in str(error.value)


def test_shapes_cost_no_arithmetic(config):
  shapes = jax.tree.leaves(weights.abstract(build.parts(config)))
  assert all(isinstance(x, jax.ShapeDtypeStruct) for x in shapes)
