"""The release's configs: what they say here, and what is refused."""

import copy

import pytest

from ldm_jax.interop import compvis_config
from ldm_jax.types import UserError
from tests.interop import released


def changed(content: dict, path: str, value) -> dict:
  content = copy.deepcopy(content)
  *parents, key = path.split('.')
  node = content
  for parent in parents:
    node = node[parent]
  node[key] = value
  return content


PARAMS = 'model.params'
UNET = f'{PARAMS}.unet_config.params'
FIRST = f'{PARAMS}.first_stage_config.params'
DD = f'{FIRST}.ddconfig'
COND = f'{PARAMS}.cond_stage_config'

# From a released config: what is changed, to what, and what the error names.
REFUSED = {
  'a class of another project': (
    'model.target', 'os.system', "model.target='os.system'.*LatentDiffusion"),
  'another first stage': (
    f'{PARAMS}.first_stage_config.target', 'a.b.Unknown', 'first_stage_config'),
  'another U-Net': (
    f'{PARAMS}.unet_config.target', 'a.EncoderUNetModel', 'UNetModel'),
  'another conditioner': (f'{COND}.target', 'a.Foo', 'cond_stage_config'),
  'a misspelt key': (f'{UNET}.model_chanels', 64, "'model_channels'"),
  'a misspelt key of the model': (
    f'{PARAMS}.linear_strat', 0.1, "Did you mean 'linear_start'"),
  'another order of q, k, v': (
    f'{UNET}.use_new_attention_order', True, 'only False'),
  'three dimensions': (f'{UNET}.dims', 3, 'only 2'),
  'classes added to the time': (f'{UNET}.num_classes', 10, 'only None'),
  'given betas': (f'{PARAMS}.given_betas', [0.1], 'only None'),
  'linear attention': (f'{DD}.use_linear_attn', True, 'only False'),
  'an attention type': (f'{DD}.attn_type', 'linear', 'vanilla, none'),
  'moments in a VQ model': (f'{DD}.double_z', True, 'false in a vq'),
  'no number of channels': (f'{UNET}.model_channels', None, 'whole number'),
  'text for a number': (f'{UNET}.model_channels', '192', 'whole number'),
  'text for a flag': (f'{UNET}.resblock_updown', 'False', 'true or false'),
  'text for a list': (f'{UNET}.channel_mult', '123', 'list of whole'),
  'a list of floats': (f'{UNET}.channel_mult', [1.5], 'list of whole'),
  'no heads': (f'{UNET}.num_head_channels', -1, 'num_head_channels'),
  'another schedule': (f'{PARAMS}.beta_schedule', 'zigzag', 'sqrt_linear'),
  'another loss': (f'{PARAMS}.loss_type', 'huber', 'l1, l2'),
  'a context of another width': (f'{UNET}.context_dim', 7, 'width 640'),
  'input channels that nothing explains': (
    f'{UNET}.in_channels', 9, 'in_channels=9.*needs 3 and 3'),
  'text told by concatenation': (
    f'{PARAMS}.conditioning_key', 'concat', 'only .crossattn.'),
  'a codebook without a size': (f'{FIRST}.n_embed', None, 'n_embed=None'),
  'no parameters': (PARAMS, None, 'must be a mapping'),
  'a list of parameters': (UNET, [1], 'must be a mapping'),
  'no model': ('model', 'x', 'model=.x. must be a mapping'),
}  # fmt: skip


@pytest.mark.parametrize('case', REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_is_named(case):
  path, value, expected = case
  content = changed(released.text(), path, value)
  with pytest.raises(UserError, match=expected) as error:
    compvis_config.read(content, 'config.yaml')
  assert str(error.value).startswith('config.yaml: ')


def test_attention_is_listed_by_level_here():
  config = compvis_config.read(released.churches()).config
  assert config['unet']['attention_levels'] == (0, 1, 2, 3)
  config = compvis_config.read(released.semantic()).config
  assert config['unet']['attention_levels'] == ()  # Factors never reached.
  config = compvis_config.read(released.first_stage_config('kl-f32')).config
  assert config['first_stage']['attention_levels'] == (4, 5)


def test_no_attention_means_the_middle_too():
  config = compvis_config.read(released.first_stage_config('vq-f4-noattn'))
  assert config.config['first_stage']['mid_attention'] is False


def test_a_head_width_wins_over_a_number_of_heads():
  content = changed(released.text(), f'{UNET}.num_heads', 8)
  unet = compvis_config.read(content).config['unet']
  assert unet['head_width'] == 32 and 'num_heads' not in unet


@pytest.mark.parametrize(
    ('make', 'task'),
    [
        (released.faces, {'name': 'unconditional'}),
        (released.imagenet_f8,
         {'name': 'class_label', 'num_classes': 1000, 'width': 512,
          'null_label': False}),
        (released.imagenet_f4,
         {'name': 'class_label', 'num_classes': 1001, 'width': 512,
          'null_label': True}),
        (released.text,
         {'name': 'text', 'vocab_size': 30522, 'length': 77, 'width': 640,
          'depth': 32, 'dropout': 0.0}),
        (released.layout,
         {'name': 'layout', 'vocab_size': 8192, 'length': 92, 'width': 512,
          'depth': 16, 'dropout': 0.0}),
        (released.super_resolution, {'name': 'super_resolution', 'factor': 4}),
        (released.inpainting, {'name': 'inpainting'}),
        (released.semantic,
         {'name': 'semantic', 'num_classes': 182, 'channels': 3, 'stages': 2}),
        (released.stable_diffusion,
         {'name': 'clip_text', 'width': 768, 'length': 77}),
        (released.stable_diffusion_inpainting,
         {'name': 'inpainting_clip_text', 'width': 768, 'length': 77,
          'hole': 0.0, 'mask_low': 0.0, 'mask_first': True}),
        (released.text_inpainting,
         {'name': 'inpainting_text', 'vocab_size': 30522, 'length': 77,
          'width': 1280, 'depth': 32, 'dropout': 0.0, 'hole': 0.0,
          'mask_low': 0.0, 'mask_first': False}),
        (released.retrieval, {'name': 'retrieval', 'width': 768}),
    ],
)  # fmt: skip
def test_tasks(make, task):
  assert compvis_config.read(make()).config['task'] == task


def test_where_the_scale_is():
  assert compvis_config.read(released.text_1b()).config['scale_factor'] == (
    0.18215
  )
  churches = compvis_config.read(released.churches())
  assert churches.scale_by_std and churches.config['scale_factor'] == 0.0


def test_the_size_of_images_is_in_pixels():
  sizes = [
    compvis_config.read(make()).config['data']['size']
    for make in (
      released.text,
      released.stable_diffusion,
      lambda: released.semantic(128),
      lambda: released.first_stage_config('kl-f8'),
    )
  ]
  assert sizes == [256, 512, 512, 256]


def test_what_training_alone_needs_is_noted_and_never_fatal():
  content = released.first_stage_config('vq-f4')
  loss = content['model']['params']['lossconfig']
  loss['params'] |= {'disc_weight': 0.75, 'disc_factor': 0.0, 'new_thing': 1}
  content['model']['params']['ddconfig']['spare'] = 1
  read = compvis_config.read(content)
  assert read.config['loss'] == {'disc_weight': 0.75, 'disc_start': 1}
  assert len(read.notes) == 3
  assert any('ddconfig.spare' in note for note in read.notes)
  loss['target'] = 'somebody.elses.Loss'
  assert 'somebody' not in str(compvis_config.read(content).config)


def test_keys_of_training_change_nothing():
  content = released.faces()
  content['model']['params'] |= {
    'ckpt_path': '/somewhere', 'ignore_keys': [],
    'num_timesteps_cond': 1, 'v_posterior': 0.0,
  }  # fmt: skip
  content['lightning'] = {'trainer': {'gpus': '0,'}}
  assert compvis_config.read(content) == compvis_config.read(released.faces())


def test_a_value_of_any_size_is_shown_in_a_line():
  huge = ['x', 'x']
  for _ in range(60):
    huge = [huge, huge]
  for path in (f'{UNET}.model_channels', f'{UNET}.dims', f'{COND}.target'):
    with pytest.raises(UserError) as error:
      compvis_config.read(changed(released.text(), path, huge))
    assert len(str(error.value)) < 1000


def test_tokens_are_of_words_where_captions_are():
  content = changed(released.text(), f'{COND}.params.use_tokenizer', False)
  names = [
    compvis_config.read(changed(content, f'{PARAMS}.cond_stage_key', key))
    for key in ('caption', 'txt', 'coordinates_bbox')
  ]
  assert [read.config['task']['name'] for read in names] == [
    'text', 'text', 'layout',
  ]  # fmt: skip


@pytest.mark.parametrize(('length', 'crop_tokens'), [(92, True), (90, False)])
def test_crops_are_told_where_there_is_room_for_their_tokens(
  length, crop_tokens
):
  content = changed(released.layout(), f'{COND}.params.max_seq_len', length)
  task = compvis_config.read(content).config['task']
  assert task.get('crop_tokens', True) == crop_tokens
