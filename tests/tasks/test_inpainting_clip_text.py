"""Stable Diffusion's inpainting: told in its form, and trained in it."""

import jax
import numpy as np
import pytest

from ldm_jax import build
from tests import clip_vocabulary, tiny
from tests.clip_vocabulary import END, SIZE, START

SECTION = {
  'name': 'inpainting_clip_text', 'width': 16, 'depth': 1, 'num_heads': 2,
  'vocab_size': SIZE, 'length': 8, 'special_tokens': (START, END, END),
  'masks': 'thick_256',
}  # fmt: skip
RNG = np.random.default_rng(0)


def corner(image):
  return image[:, ::4, ::4]


@pytest.fixture(scope='module')
def task(tmp_path_factory):
  """(conditioner, Prepare) with a tokenizer."""
  folder = clip_vocabulary.write(tmp_path_factory.mktemp('clip'))
  return build.task({**SECTION, 'vocab_file': str(folder)})


@pytest.fixture(scope='module')
def batch(task):
  examples = [
    {'text': text, 'image': RNG.uniform(-1, 1, (32, 32, 3)).astype(np.float32)}
    for text in ('red', 'a red')
  ]
  made = [task[1](example, RNG) for example in examples]
  return {k: np.stack([m[k] for m in made]) for k in made[0]}


def test_an_example_is_the_image_a_mask_and_clip_s_tokens(batch):
  assert set(batch) == {'image', 'mask', 'tokens'}
  assert batch['tokens'].shape == (2, 8) and batch['tokens'][0, 0] == START
  assert set(np.unique(batch['mask'])) == {0, 1}


def test_the_mask_comes_first_and_holes_are_grey(task, batch):
  told, _ = jax.jit(
    lambda: task[0].init_with_output(jax.random.key(0), batch, corner, False)
  )()
  mask = batch['mask']
  np.testing.assert_array_equal(told.concat[..., :1], corner(mask))
  masked = corner(batch['image'] * (mask < 0.5))
  np.testing.assert_array_equal(told.concat[..., 1:], masked)
  assert told.context.shape == (2, 8, 16)


def test_the_null_drops_the_text_alone(task, batch):
  null = task[0].null(batch)
  np.testing.assert_array_equal(null['tokens'], [[START] + 7 * [END]] * 2)
  assert null['mask'] is batch['mask'] and null['image'] is batch['image']


def test_a_step_trains_the_unet_and_leaves_clip_as_it_is(batch):
  small = {'multipliers': (1,), 'attention_levels': (0,), 'dropout': 0.0}
  pixels = {'first_stage': {'name': 'identity'}, 'task': SECTION}
  parts = build.parts(
    tiny.diffusion(num_steps=2, unet=small, data={'size': 8}) | pixels
  )
  training = build.training(parts)
  shapes = jax.eval_shape(training.init, jax.random.key(0))
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  draw = lambda x: RNG.normal(0, 0.1, x.shape).astype(np.float32)
  before = jax.tree.map(draw, shapes.params)
  assert before['unet']['conv_in']['kernel'].shape[2] == 3 + 1 + 3
  batch = {k: x[:, :8, :8] if x.ndim > 2 else x for k, x in batch.items()}
  frozen = {'first_stage': {}, 'scale_factor': np.float32(1.0)}
  state, metrics = jax.jit(training.step)(
    state.replace(params=before), frozen, batch, jax.random.key(2)
  )
  assert np.isfinite(metrics['loss'])
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, state.params)
  assert min(moved['unet']['conv_in'].values()) > 0
  assert max(jax.tree.leaves(moved['conditioner'])) == 0
