"""A state_dict of the release, in and out: what is kept, refused, noted."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import build
from ldm_jax.interop import (
  compvis,
  compvis_config,
  compvis_names,
  compvis_release,
  imported,
)
from ldm_jax.types import UserError
from tests.interop import released, states

KINDS = {**released.CONFIGS, **released.MORE}
EMA = 'model_ema.diffusion_modelout2bias'
RAW = 'model.diffusion_model.out.2.bias'


def faces(**params) -> tuple[dict, dict]:
  """(YAML, state_dict) of a tiny unconditional model."""
  content = released.tiny(released.faces())
  content['model']['params'] |= params
  return content, states.random_state(content)


def read(content, state, **kwargs):
  return compvis.read_state(
    state, compvis_config.read(copy.deepcopy(content)), path='x.ckpt', **kwargs
  )


@pytest.mark.parametrize('name', KINDS)
def test_there_and_back_is_bitwise(name):
  content = released.tiny(KINDS[name]())
  state = states.random_state(content)
  one = read(content, state)
  again = compvis.write_state(one.config, one.items, one.meta)
  assert again.keys() == state.keys()
  for key, x in state.items():
    assert again[key].dtype == x.dtype and again[key].shape == x.shape, key
    np.testing.assert_array_equal(again[key], x)


@pytest.mark.parametrize('name', released.CONFIGS)
def test_full_size_there_and_back(name):
  # A view of one element stands for gigabytes.
  content = released.CONFIGS[name]()
  config = compvis_config.read(content)
  state = {
    key: np.broadcast_to(np.float32(0.5), shape)
    for key, shape in _shapes(content).items()
  }
  if 'unet' in config.config:
    state |= compvis.compvis_buffers.buffers(config.config['schedule'])
  one = compvis.read_state(state, config)
  again = compvis.write_state(one.config, one.items, one.meta)
  assert {k: v.shape for k, v in again.items()} == {
    k: np.shape(v) for k, v in state.items()
  }


def _shapes(content) -> dict:
  read = compvis_config.read(content)
  shapes = {row.theirs: row.shape for row in states.rows(content)}
  if read.use_ema:
    shapes |= {'model_ema.decay': (), 'model_ema.num_updates': ()}
  if read.scale_by_std:
    shapes['scale_factor'] = ()
  return shapes


def test_every_difference_is_listed_in_the_sources_names():
  content, state = faces()
  first = 'first_stage_model.encoder.conv_in.weight'
  del state[first], state[EMA]
  state['model.diffusion_model.extra.weight'] = np.zeros(3, np.float32)
  state[RAW] = np.zeros(4, np.float32)
  state['first_stage_model.quant_conv.bias'][1] = np.nan
  with pytest.raises(UserError) as error:
    read(content, state)
  message = str(error.value)
  assert 'x.ckpt' in message and '\n' not in message
  assert f'2 missing: {first}, {EMA}' in message
  assert '1 unexpected: model.diffusion_model.extra.weight' in message
  assert f'1 misshapen: {RAW} [4] instead of [3]' in message
  assert '1 not finite: first_stage_model.quant_conv.bias' in message


def test_lenient_says_what_share_was_loaded():
  content, state = faces()
  whole = read(content, state)
  del state[RAW]
  state['first_stage_model.quant_conv.bias'][1] = np.inf
  fill = copy.deepcopy(whole.items)
  fill.pop('carried')
  fill['model']['unet']['conv_out']['bias'] = np.full(3, 7, np.float32)
  fill['first_stage']['quant_conv']['bias'] = np.full(3, 8, np.float32)
  one = read(content, state, initial=lambda config: fill)
  assert (one.items['model']['unet']['conv_out']['bias'] == 7).all()
  assert (one.items['first_stage']['quant_conv']['bias'] == 8).all()
  assert any(
    '% of the parameters' in note and RAW in note for note in one.notes
  )
  assert not any(note.startswith('100') for note in one.notes)


def test_lenient_without_an_average_starts_one_from_the_weights():
  content, state = faces(use_ema=False)
  state = {k: v for k, v in state.items() if not k.startswith('model_ema.')}
  fill = copy.deepcopy(read(content, state).items)
  fill['ema']['conv_in']['bias'] = np.full(32, 7, np.float32)  # As drawn.
  del state[RAW]
  one = read(content, state, initial=lambda config: fill)
  jax.tree.map(
    np.testing.assert_array_equal, one.items['ema'], one.items['model']['unet']
  )


def test_what_was_not_of_the_release_goes_without_an_average_it_lacks():
  content, state = faces()
  one = read(content, state)
  assert EMA in compvis.write_state(one.config, one.items, {})
  other = {'use_ema': False, 'source': {'format': 'diffusers'}}
  one.items.pop('carried')
  found = compvis.write_state(one.config, one.items, other)
  assert not [name for name in found if name.startswith('model_ema.')]
  assert RAW in found


def test_what_sampling_leaves_behind_and_losses_are_never_fatal():
  content, state = faces()
  state |= {
    'ddim_alphas': np.ones(5, np.float32),
    'ddim_sigmas_for_original_num_steps': np.ones(5, np.float64),
    'first_stage_model.loss.logvar': np.float32(0.5),
  }
  one = read(content, state)
  again = compvis.write_state(one.config, one.items, one.meta)
  assert not any(name.startswith('ddim_') for name in again)
  assert again['first_stage_model.loss.logvar'] == np.float32(0.5)


def test_a_first_stages_losses_come_back():
  content = released.tiny(released.first_stage_config('vq-f4'))
  state = states.random_state(content)
  state['loss.discriminator.main.0.weight'] = np.ones((4, 3, 2, 2), np.float32)
  state['loss.perceptual_loss.lin0.model.1.weight'] = np.ones(4, np.float16)
  one = read(content, state)
  again = compvis.write_state(one.config, one.items, one.meta)
  assert again.keys() == state.keys()
  assert again['loss.perceptual_loss.lin0.model.1.weight'].dtype == np.float16


def test_ema_and_raw_are_both_kept():
  content, state = faces()
  one = read(content, state)
  raw = one.items['model']['unet']['conv_out']['bias']
  np.testing.assert_array_equal(raw, state[RAW])
  ema = one.items['ema']['conv_out']['bias']
  np.testing.assert_array_equal(ema, state[EMA])
  assert one.meta['use_ema'] is True
  assert read(content, state, use_ema=False).meta['use_ema'] is False


def test_which_weights_sample_is_as_released():
  content, state = faces()
  content['model']['params']['use_ema'] = False
  one = read(content, state)
  assert one.meta['use_ema'] is False
  assert any('--use_ema=true' in note for note in one.notes)
  assert read(content, state, use_ema=True).meta['use_ema'] is True

  content, state = faces(use_ema=False)
  assert not any(name.startswith('model_ema') for name in state)
  one = read(content, state)
  assert one.items['ema'] is one.items['model']['unet']
  with pytest.raises(UserError, match='no EMA weights'):
    read(content, state, use_ema=True)


def test_the_scale_is_the_checkpoints_or_the_configs():
  content = released.tiny(released.churches())
  state = states.random_state(content)
  one = read(content, state)
  assert one.meta['scale_factor'] == pytest.approx(0.7)
  del state['scale_factor']
  with pytest.raises(UserError, match='has no scale_factor'):
    read(content, state)
  state['scale_factor'] = np.float32(np.nan)
  with pytest.raises(UserError, match='no scale'):
    read(content, state)

  content, state = faces(scale_factor=0.25)
  assert read(content, state).meta['scale_factor'] == 0.25
  state['scale_factor'] = np.float32(0.5)
  one = read(content, state)
  assert one.meta['scale_factor'] == 0.25  # It keeps no such buffer.
  assert any('scale_factor=0.5' in note for note in one.notes)


def test_the_checkpoints_schedule_wins_over_the_configs():
  content, state = faces()
  content['model']['params'] |= {'linear_start': 0.001, 'linear_end': 0.02}
  one = read(content, state)
  assert one.config['schedule'] == {
    'kind': 'linear', 'num_timesteps': 1000, 'start': 0.0015, 'end': 0.0195,
  }  # fmt: skip
  assert any('schedule' in note for note in one.notes)


def test_inpaintings_second_first_stage_must_be_the_first():
  content = released.tiny(released.inpainting())
  state = states.random_state(content)
  name = 'cond_stage_model.decoder.conv_in.bias'
  state[name] = state[name] + 1
  with pytest.raises(UserError, match=f'{name} unlike first_stage_model'):
    read(content, state)
  state = {k: v for k, v in state.items() if 'cond_stage_model' not in k}
  one = read(content, state)
  again = compvis.write_state(one.config, one.items, one.meta)
  assert again.keys() == state.keys()


def test_half_precision_is_widened():
  content, state = faces()
  halves = {
    k: v.astype(np.float16) if v.dtype == np.float32 else v
    for k, v in state.items()
  }
  one = read(content, halves)
  leaf = one.items['model']['unet']['conv_out']['bias']
  assert leaf.dtype == np.float32
  np.testing.assert_array_equal(leaf, np.float32(halves[RAW]))
  assert one.config['schedule']['start'] == 0.0015


def test_a_model_trained_here_gets_all_that_the_release_saves():
  content = released.tiny(released.text())
  state = states.random_state(content)
  one = read(content, state)
  items = {k: v for k, v in one.items.items() if k != 'carried'}
  meta = {'scale_factor': 0.9, 'stage': 'diffusion'}
  again = compvis.write_state(one.config, items, meta, step=55)
  assert again.keys() == state.keys()
  assert {k: v.shape for k, v in again.items()} == {
    k: np.shape(v) for k, v in state.items()
  }
  assert again['model_ema.num_updates'] == 55
  assert not again['cond_stage_model.transformer.to_logits.weight'].any()
  # The schedule's buffers are made anew, and end in the same floats.
  for name in compvis.compvis_buffers.NAMES:
    np.testing.assert_allclose(again[name], state[name], rtol=1e-6)


def test_a_workdir_that_lacks_a_parameter_is_not_exported():
  content, state = faces()
  one = read(content, state)
  del one.items['model']['unet']['conv_out']['bias']
  with pytest.raises(UserError, match='model/unet/conv_out/bias'):
    compvis.write_state(one.config, one.items, one.meta)


def test_clips_size_is_read_off_its_weights():
  content = released.tiny(released.stable_diffusion())
  one = read(content, states.random_state(content))
  task = one.config['task']
  for field, value in states.CLIP_SIZES.items():
    assert task[field] == value, field
  assert task['num_heads'] == 1  # Narrower than the 64 of OpenAI's heads.


def test_learned_log_variances_belong_to_the_model():
  content, state = faces(learn_logvar=True)
  assert state['logvar'].shape == (1000,)
  one = read(content, state)
  assert one.items['model']['logvar'].shape == (1000,)


def test_ema_names_are_matched_and_never_parsed():
  rows = compvis_names.ema(compvis_names.table(
      compvis_config.read(released.churches()).config
  ))  # fmt: skip
  names = [row.theirs for row in rows]
  assert len(set(names)) == len(names)
  # Read digit by digit, this could be block 1, 11 or 111.
  assert 'model_ema.diffusion_modelinput_blocks111normweight' in names


def test_diffusion_in_pixels_has_no_first_stage():
  content = released.tiny(released.faces())
  content['model']['params']['first_stage_config'] = {
    'target': 'ldm.models.autoencoder.IdentityFirstStage'
  }
  state = states.random_state(content)
  assert not any(name.startswith('first_stage') for name in state)
  one = read(content, state)
  assert one.items['first_stage'] == {}
  again = compvis.write_state(one.config, one.items, one.meta)
  assert again.keys() == state.keys()


@pytest.mark.parametrize('channels', [1, 4])
def test_pixels_of_any_number_of_channels(channels):
  content = released.tiny(released.faces())
  params = content['model']['params']
  params['channels'] = channels
  params['first_stage_config'] = {
    'target': 'ldm.models.autoencoder.IdentityFirstStage'
  }
  unet = params['unet_config']['params']
  unet['in_channels'] = unet['out_channels'] = channels
  one = read(content, states.random_state(content))
  assert one.config['first_stage']['channels'] == channels


def test_a_first_stage_of_grey_images():
  content = released.tiny(released.faces())
  fs = content['model']['params']['first_stage_config']['params']['ddconfig']
  fs |= {'in_channels': 1, 'out_ch': 1, 'tanh_out': True}
  one = read(content, states.random_state(content))
  built = build.parts(imported.complete(one.config))
  params = build.init_first_stage(built, jax.random.key(0))
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(
    jnp.shape, one.items['first_stage']
  )
  decoded = built.first_stage.apply(
    {'params': params}, 9 * jnp.ones((1, 4, 4, 3)), method='decode'
  )
  assert decoded.shape[-1] == 1 and jnp.abs(decoded).max() <= 1


def test_a_named_text_encoder_stays_named():
  content = released.tiny(released.stable_diffusion())
  stage = content['model']['params']['cond_stage_config']
  stage['params'] = {'version': 'someone/clip'}
  one = read(content, states.random_state(content))
  written = compvis_release.write(one.config, one.meta)['model']['params']
  assert written['cond_stage_config']['params'] == {'version': 'someone/clip'}


def test_a_prompt_shorter_than_clips_table():
  content = released.tiny(released.stable_diffusion())
  stage = content['model']['params']['cond_stage_config']
  stage['params'] = {'max_length': 5}
  task = read(content, states.random_state(content)).config['task']
  assert (task['max_length'], task['length']) == (
    5, states.CLIP_SIZES['length'],
  )  # fmt: skip


def test_clips_names_of_transformers_5_are_known_too():
  content = released.tiny(released.stable_diffusion())
  old = states.random_state(content)
  new = {
    k.replace('transformer.text_model.', 'transformer.'): v
    for k, v in old.items()
  }
  one, two = read(content, old), read(content, new)
  assert one.config == two.config
  for name, x in one.items['model']['conditioner']['transformer'][
    'norm'
  ].items():
    np.testing.assert_array_equal(
      two.items['model']['conditioner']['transformer']['norm'][name], x
    )
  again = compvis.write_state(two.config, two.items, two.meta)
  assert again.keys() == new.keys()


def test_a_log_variance_that_is_not_learned_is_carried():
  content, state = faces()
  state['logvar'] = np.zeros(1000, np.float32)
  one = read(content, state)
  assert 'logvar' not in one.items['model']
  assert compvis.write_state(one.config, one.items, one.meta).keys() == (
    state.keys()
  )


def test_the_masked_latent_of_a_scaled_model_is_not_scaled():
  content = released.tiny(released.inpainting())
  content['model']['params']['scale_factor'] = 0.5
  state = states.random_state(content)
  found = compvis.read_state(state, compvis_config.read(content))
  assert found.config['task']['latent_scale'] == 2.0
  assert found.meta['scale_factor'] == 0.5


def test_averages_and_colours_of_a_first_stage_are_never_fatal():
  content = released.tiny(released.faces())
  state = states.random_state(content)
  more = {
    'first_stage_model.colorize': np.ones((3, 9, 1, 1), np.float32),
    'first_stage_model.model_ema.encoderconv_inweight': np.ones(3, np.float32),
  }
  read = compvis_config.read(content)
  found = compvis.read_state(state | more, read)
  again = compvis.write_state(found.config, found.items, found.meta)
  assert again.keys() == state.keys() | {'first_stage_model.colorize'}
