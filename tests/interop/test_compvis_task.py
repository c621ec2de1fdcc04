"""Models told a masked image beside a text; see also test_compvis_config."""

import pytest

from ldm_jax.interop import compvis_config, compvis_release
from ldm_jax.types import UserError
from tests.interop import released


def task(make=released.stable_diffusion_inpainting, **params) -> dict:
  content = make()
  content['model']['params'] |= params
  return compvis_config.read(content, 'x.yaml').config['task']


def test_the_keys_that_are_concatenated_say_the_order():
  first = lambda **params: task(**params)['mask_first']
  assert first()
  assert first(concat_keys=['mask', 'masked_image'])
  assert not first(concat_keys=['masked_image', 'mask'])
  assert not first(concat_keys=['a', 'b'], masked_image_key='a')


def test_keys_of_finetuning_change_nothing():
  keys = {
    'finetune_keys': ['model.diffusion_model.input_blocks.0.0.weight'],
    'keep_finetune_dims': 4, 'c_concat_log_start': 1, 'c_concat_log_end': 5,
  }  # fmt: skip
  assert task(**keys) == task()


def test_other_numbers_of_classes_are_noted():
  content = released.imagenet_f4()
  assert not compvis_config.read(content).notes
  cond = content['model']['params']['cond_stage_config']
  cond['params']['n_classes'] = 11
  read = compvis_config.read(content)
  assert read.config['task']['null_label'] is None
  (note,) = read.notes
  assert 'n_classes=11' in note and 'task.null_label' in note


@pytest.mark.parametrize('null', [True, False])
def test_our_exports_say_whether_the_last_class_is_the_null(null):
  """By the task's own word, or by the share that training dropped."""
  read = compvis_config.read(released.imagenet_f4())
  told = {**read.config['task'], 'num_classes': 11, 'null_label': null}
  trained = {**told, 'null_label': None}
  for config in (
    {**read.config, 'task': told},
    {**read.config, 'task': trained, 'null_prob': 0.1 * null},
  ):
    content = compvis_release.write(config, {})
    params = content['model']['params']['cond_stage_config']['params']
    assert params.keys() == {'n_classes', 'embed_dim', 'key'}
    again = compvis_config.read(content)
    assert again.config['task'] == told and not again.notes


COND = 'ldm.modules.encoders.modules.'


@pytest.mark.parametrize(
  ('make', 'params', 'named'),
  [
    (None, {'concat_keys': ['mask']}, "concat_keys=.* the mask and 'masked_i"),
    (None, {'concat_keys': ['mask', 'depth']}, 'concat_keys'),
    (None, {'concat_keys': 'mask'}, 'concat_keys'),
    (None, {'conditioning_key': 'crossattn'}, "only 'hybrid' is"),
    (None, {'concat_key': []}, "Did you mean 'concat_keys'"),
    (None, {'cond_stage_config': '__is_unconditional__'}, 'must be a mapping'),
    (
      None,
      {'cond_stage_config': {'target': COND + 'ClassEmbedder'}},
      'FrozenCLIPEmbedder',
    ),
    (
      released.stable_diffusion,
      {'conditioning_key': 'hybrid'},
      'LatentInpaintDiffusion alone',
    ),
    (released.stable_diffusion, {'concat_keys': []}, 'concat_keys is not kn'),
  ],
)
def test_what_is_refused_is_named(make, params, named):
  with pytest.raises(UserError, match=named):
    task(make or released.stable_diffusion_inpainting, **params)


def test_the_channels_are_counted():
  content = released.stable_diffusion_inpainting()
  network = content['model']['params']['unet_config']['params']
  network['in_channels'] = 8  # An image's latent alone, say.
  with pytest.raises(UserError, match='in_channels=8.*needs 9 and 4'):
    compvis_config.read(content)
