"""Every task through the Python face: batch keys in, images of their size out.

On untrained networks: what is asked is who gets which arrays.
"""

import jax
import numpy as np
import pytest

from ldm_jax import build
from ldm_jax.types import UserError
from tests import clip_vocabulary, tiny, untrained

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2, 16, 24, 3), np.uint8)
MASKS = (RNG.random((2, 16, 24, 1)) > 0.5).astype(np.uint8)
BOXES = np.float32([[[0.1, 0.2, 0.5, 0.9], [0, 0, 0, 0]]] * 2)
LABELS = np.int32([[5, -1], [7, -1]])
TEXT_ENCODER = {'width': 16, 'depth': 1, 'num_heads': 2, 'head_width': 8}
TASKS = {
  'layout': (TEXT_ENCODER, {'boxes': BOXES, 'box_labels': LABELS}, 'context'),
  'semantic': (
    {'num_classes': 41},
    {'segmentation': RNG.integers(0, 41, (2, 16, 24))},
    'concat',
  ),
  'super_resolution': (
    {},
    {'low_res': RNG.uniform(-1, 1, (2, 4, 6, 3)).astype(np.float32)},
    'concat',
  ),
  'inpainting': ({}, {'image': IMAGES, 'mask': MASKS}, 'concat'),
}


def pipeline(task: str):
  fields, _, kind = TASKS[task]
  return untrained.pipeline(
    task={'name': task, **fields},
    unet={'attention': 'cross' if kind == 'context' else 'self'},
  )


@pytest.mark.parametrize('task', TASKS)
def test_condition_takes_the_batch_keys_as_numpy(task):
  _, batch, kind = TASKS[task]
  told = pipeline(task).condition(batch)
  value = getattr(told, kind)
  other = {'concat': 'context', 'context': 'concat'}[kind]
  assert getattr(told, other) is None
  channels = {'inpainting': 4}.get(task, 3)
  assert value.shape == (
    (2, 92, 16) if kind == 'context' else (2, 4, 6, channels)
  )
  assert np.abs(value[0] - value[1]).max() > 1e-4


def test_inpainted_images_have_the_size_of_theirs_and_keep_what_is_known():
  found = pipeline('inpainting').sample(
    num=2, steps=1, image=IMAGES, mask=MASKS
  )
  assert found.shape == IMAGES.shape and found.dtype == np.uint8
  known = np.broadcast_to(MASKS == 0, IMAGES.shape)
  np.testing.assert_array_equal(found[known], IMAGES[known])
  assert (found[~known] != IMAGES[~known]).mean() > 0.9


def test_inpainting_in_tiles_is_the_same_and_keeps_what_is_known():
  """Its image is encoded in tiles too, of the null where that is asked."""
  image = RNG.integers(0, 256, (1, 64, 72, 3), np.uint8)
  mask = np.zeros((1, 64, 72, 1), np.uint8)
  mask[:, 20:50, 10:60] = 1
  for guidance in (1.0, 3.0):
    whole, tiled = (
      pipeline('inpainting').sample(
        num=1, steps=2, image=image, mask=mask, guidance=guidance, **how
      )
      for how in ({}, {'tile': 44})
    )
    known = np.broadcast_to(mask == 0, image.shape)
    np.testing.assert_array_equal(tiled[known], image[known])
    assert np.ptp(whole[~known]) > 20
    assert np.abs(whole.astype(int) - tiled).max() <= 2


@pytest.mark.parametrize('name', ['inpainting_text', 'inpainting_clip_text'])
def test_inpainting_with_text_is_told_both(name, tmp_path_factory):
  words = {
    'vocab_file': 'scenes',
    'vocab_size': 39,
    'special_tokens': (2, 3, 0),
  }
  encoder = TEXT_ENCODER
  if name == 'inpainting_clip_text':
    encoder = {'width': 16, 'depth': 1, 'num_heads': 2}
    words = {
      'vocab_file': str(clip_vocabulary.write(tmp_path_factory.mktemp('clip'))),
      'vocab_size': clip_vocabulary.SIZE,
      'special_tokens': (clip_vocabulary.START, *[clip_vocabulary.END] * 2),
    }
  ldm = untrained.pipeline(
    task={'name': name, 'length': 16, **encoder, **words},
    unet={'attention': 'cross'},
  )
  draw = lambda text: ldm.sample(
    num=2, steps=1, spacing='trailing', image=IMAGES, mask=MASKS, text=text
  )
  one, other = draw('a red circle'), draw('a blue ring')
  known = np.broadcast_to(MASKS == 0, IMAGES.shape)
  for found in (one, other):
    np.testing.assert_array_equal(found[known], IMAGES[known])
  assert (one[~known] != other[~known]).any()
  with pytest.raises(UserError, match='mask'):
    ldm.sample(num=2, steps=1, image=IMAGES, text='a red circle')


def test_one_input_serves_all_images_and_an_image_is_four_times_its_input():
  low_res = TASKS['super_resolution'][1]['low_res']
  ldm = pipeline('super_resolution')
  one = ldm.sample(num=2, steps=1, low_res=low_res[0])
  both = ldm.sample(num=2, steps=1, low_res=low_res)
  assert one.shape == (2, 16, 24, 3)
  np.testing.assert_array_equal(one[0], both[0])
  assert (one[1] != both[1]).any()


@pytest.mark.parametrize(
  'task, inputs, message',
  [
    ('semantic', {}, 'give a segmentation'),
    ('semantic', {'low_res': 0}, "'low_res' is not an input of task"),
    ('inpainting', {'image': IMAGES, 'mask': MASKS, 'size': (32, 32)}, '16x24'),
    ('inpainting', {'image': IMAGES, 'mask': MASKS[:, :8]}, '8x24'),
    ('layout', {'boxes': BOXES + 1, 'box_labels': LABELS}, 'outside the image'),
    ('super_resolution', {'low_res': np.zeros((3, 4, 4, 3))}, '3 values'),
    (
      'super_resolution',
      {'low_res': np.zeros((2, 5, 8, 3))},
      r'5x8 pixels \(20x32 .* multiples of 2, such as 4x8',
    ),
    (
      'layout',
      {'boxes': np.zeros((2, 31, 4)), 'box_labels': np.ones((2, 31))},
      'layout of 31 boxes; this run knows up to 30',
    ),
  ],
)
def test_mistakes_are_one_clear_line(task, inputs, message):
  with pytest.raises(UserError, match=message):
    pipeline(task).sample(num=2, steps=1, **inputs)


def test_a_factor_that_is_not_the_first_stages_is_found_before_training():
  config = tiny.diffusion(task={}, unet={'attention': 'self'})
  config['task'] = {'name': 'super_resolution', 'factor': 2}
  parts = build.parts(config)
  training = build.training(parts)
  with pytest.raises(UserError, match='16x16 for a latent of 8x8'):
    jax.eval_shape(training.init, jax.random.key(0))
