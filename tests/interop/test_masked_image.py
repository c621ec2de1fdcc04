"""A masked image told in another scale and order is the same to the U-Net."""

import numpy as np
import pytest

from ldm_jax.interop import masked_image
from ldm_jax.tasks import TASKS, inpainting

RNG = np.random.default_rng(0)
BATCH = {
  'image': RNG.uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32),
  'mask': (RNG.random((2, 8, 8, 1)) > 0.5).astype(np.float32),
}
FIELDS = ('latent_scale', 'hole', 'mask_low', 'mask_first')


def read(task: dict, unet: dict) -> np.ndarray:
  """What a kernel of size 1 makes of z_t (ones) and the task's channels."""
  task = masked_image.filled(task)
  told = inpainting.Inpainting(**{k: task[k] for k in FIELDS}).apply(
    {}, BATCH, lambda image: image[:, ::2, ::2], False
  )
  z = np.ones((2, 4, 4, 3), np.float32)
  return np.concatenate([z, told.concat], -1) @ unet['conv_in']['kernel'][0, 0]


@pytest.mark.parametrize('name', masked_image.TASKS)
@pytest.mark.parametrize('first', [False, True])
@pytest.mark.parametrize(('scale', 'mask_first'), [(2.0, None), (0.5, True)])
def test_it_is_the_same_function(name, first, scale, mask_first):
  draw = lambda: {
    'conv_in': {'kernel': RNG.normal(size=(1, 1, 7, 5)).astype(np.float32)}
  }
  items = {'model': {'unet': draw()}, 'ema': draw(), 'first_stage': {}}
  task = {'name': name, 'latent_scale': 0.25, 'mask_first': first}
  config = {'task': task, 'unet': {'out_channels': 3}}
  found, changed = masked_image.retold(config, items, scale, mask_first)
  assert found['task']['latent_scale'] == scale
  wanted = first if mask_first is None else mask_first
  assert found['task']['mask_first'] == wanted
  for before, after in (
    (items['model']['unet'], changed['model']['unet']),
    (items['ema'], changed['ema']),
  ):
    np.testing.assert_allclose(
      read(task, before), read(found['task'], after), atol=1e-5
    )


def test_what_needs_no_change_is_not_copied():
  items = {'model': {'unet': {}}, 'ema': {}}
  config = {'task': {'name': 'inpainting_clip_text'}}
  _, again = masked_image.retold(config, items, 1.0, True)
  assert again['ema'] is items['ema']


def test_the_defaults_are_those_of_the_tasks():
  for name in masked_image.TASKS:
    filled = masked_image.filled({'name': name})
    for key in FIELDS:
      assert filled[key] == getattr(TASKS[name].conditioner, key)
  assert masked_image.fits({'name': 'inpainting'}, masked_image.PAPER)
  assert not masked_image.fits({'name': 'inpainting'}, masked_image.STABLE)
  assert masked_image.fits(
    {'name': 'inpainting_text', 'hole': 0.0, 'mask_low': 0.0},
    masked_image.STABLE,
  )


def test_encoders_are_those_of_the_text_alone():
  assert masked_image.encoder_of('inpainting_text') == 'text'
  assert masked_image.encoder_of('clip_text') == 'clip_text'
  assert masked_image.encoder_of(None) is None
