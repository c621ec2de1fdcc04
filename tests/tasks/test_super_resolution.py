"""The small image: made, accepted in any form, told as it is."""

import numpy as np
import pytest

from ldm_jax.data import degrade, images, scenes
from ldm_jax.tasks.super_resolution import Prepare, SuperResolution
from ldm_jax.types import UserError

PIXELS = scenes.Scenes(size=32)[0]['image']


def test_bicubic_is_of_the_stored_pixels():
  example = {'image': images.to_float(PIXELS)}
  found = Prepare()(example, np.random.default_rng(0))
  expected = images.to_float(degrade.bicubic(PIXELS, 4))
  np.testing.assert_array_equal(found['low_res'], expected)
  np.testing.assert_array_equal(found['image'], example['image'])


@pytest.mark.parametrize('name', degrade.DEGRADATIONS)
def test_every_degradation_follows_the_generator(name):
  prepare = Prepare(degradation=name)
  example = {'image': images.to_float(PIXELS)}
  one, again = (
    prepare(example, np.random.default_rng(3))['low_res'] for _ in range(2)
  )
  np.testing.assert_array_equal(one, again)
  assert one.shape == (8, 8, 3) and np.abs(one).max() <= 1


def test_it_is_told_as_it_is():
  small = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3))
  arrays = Prepare().arrays({'low_res': small})
  told = SuperResolution().apply({}, arrays, None, False)
  np.testing.assert_array_equal(told.concat, small.astype(np.float32))
  assert told.context is None
  assert Prepare().size_of(arrays) == (32, 32)
  assert Prepare().blank(32)['low_res'].shape == (8, 8, 3)


def test_mistakes_are_one_clear_line():
  with pytest.raises(UserError, match='give low_res'):
    Prepare().arrays({})
  with pytest.raises(UserError, match='bsr_light'):
    Prepare(degradation='bsrgan')
  with pytest.raises(UserError, match='33x33'):
    Prepare()({'image': np.zeros((33, 33, 3), np.float32)}, None)
