"""Inpainting with text: both conditions, each as its own task has it."""

import jax
import numpy as np
import pytest

from ldm_jax import build
from ldm_jax.data import scenes
from ldm_jax.models.latent_diffusion import LatentDiffusion
from ldm_jax.models.unet import UNet
from ldm_jax.tasks import inpainting, text
from ldm_jax.types import UserError

SECTION = {
  'name': 'inpainting_text', 'vocab_file': 'scenes', 'vocab_size': 39,
  'width': 32, 'depth': 1, 'special_tokens': (2, 3, 0), 'masks': 'thick_256',
}  # fmt: skip
CONDITIONER, PREPARE = build.task(SECTION)


def corner(image):
  return image[:, ::4, ::4]


@pytest.fixture(scope='module')
def batch():
  source, rng = scenes.Scenes(), np.random.default_rng(0)
  examples = []
  for i in range(2):
    example = dict(source[i])
    example['image'] = example['image'] / np.float32(127.5) - 1
    examples.append(PREPARE(example, rng))
  return {k: np.stack([e[k] for e in examples]) for k in examples[0]}


def test_an_example_has_what_both_tasks_need(batch):
  assert set(batch) == {'image', 'mask', 'tokens'}
  assert set(PREPARE.blank(32)) == {'image', 'mask', 'tokens'}
  assert PREPARE.needs == ('text',)
  assert PREPARE.tokenize.length == 77
  assert not PREPARE.latent_is_enough  # As it would be for the text alone.


def test_each_condition_is_that_of_its_task(batch):
  both = lambda: CONDITIONER.init_with_output(
    jax.random.key(0), batch, corner, False
  )
  told, variables = jax.jit(both)()
  fields = {k: SECTION[k] for k in ('width', 'depth', 'vocab_size')}
  alone = jax.jit(
    lambda: text.Text(**fields).apply(variables, batch, corner, False)
  )()
  np.testing.assert_allclose(told.context, alone.context, atol=1e-5)
  np.testing.assert_array_equal(
    told.concat,
    inpainting.Inpainting().apply({}, batch, corner, False).concat,
  )


def test_the_null_drops_the_text_and_keeps_the_image(batch):
  null = CONDITIONER.null(batch)
  assert np.asarray(null['tokens'])[:, :3].tolist() == [[2, 3, 0]] * 2
  assert null['mask'] is batch['mask'] and null['image'] is batch['image']


def test_the_unet_takes_both_at_once(batch):
  unet = UNet(3, 32, (1,), (0,), num_heads=2, attention='cross')
  model = LatentDiffusion(unet, CONDITIONER, null_prob=0.5)
  z, t = np.ones((2, 8, 8, 3), np.float32), np.zeros(2, np.int32)
  rngs = {'params': jax.random.key(0), 'null': jax.random.key(1)}
  shapes = lambda encode: jax.eval_shape(
    lambda: model.init_with_output(rngs, z, t, batch, encode, train=True)
  )
  out, variables = shapes(corner)
  assert out.shape == (2, 8, 8, 3)
  assert variables['params']['unet']['conv_in']['kernel'].shape[2] == 3 + 3 + 1
  with pytest.raises(UserError, match='16x16 for a latent of 8x8'):
    shapes(lambda image: image[:, ::2, ::2])


def test_inputs_are_those_of_both():
  with pytest.raises(UserError, match='text'):
    PREPARE.arrays({'image': 0, 'mask': 0})
  with pytest.raises(UserError, match='mask'):
    PREPARE.arrays({'text': 'a red circle'})
