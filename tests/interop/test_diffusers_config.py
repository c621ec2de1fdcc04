"""Tests for ldm_jax.interop.diffusers_config."""

import pytest

from ldm_jax.interop import diffusers_config, diffusers_release
from ldm_jax.types import UserError
from tests.interop import folders

# As diffusers writes them, but for the keys that are at their defaults.
CELEBAHQ = {
  '_class_name': 'UNet2DModel',
  '_diffusers_version': '0.1.2',
  'act_fn': 'silu',
  'attention_head_dim': 32,
  'block_out_channels': [224, 448, 672, 896],
  'center_input_sample': False,
  'down_block_types': ['DownBlock2D', *['AttnDownBlock2D'] * 3],
  'downsample_padding': 1,
  'flip_sin_to_cos': True,
  'freq_shift': 0,
  'in_channels': 3,
  'layers_per_block': 2,
  'mid_block_scale_factor': 1,
  'norm_eps': 1e-05,
  'norm_num_groups': 32,
  'out_channels': 3,
  'sample_size': 64,
  'time_embedding_type': 'positional',
  'up_block_types': [*['AttnUpBlock2D'] * 3, 'UpBlock2D'],
}
STABLE = {
  '_class_name': 'UNet2DConditionModel',
  'attention_head_dim': 8,
  'block_out_channels': [320, 640, 1280, 1280],
  'cross_attention_dim': 768,
  'down_block_types': [*['CrossAttnDownBlock2D'] * 3, 'DownBlock2D'],
  'in_channels': 4,
  'layers_per_block': 2,
  'out_channels': 4,
  'sample_size': 64,
  'up_block_types': ['UpBlock2D', *['CrossAttnUpBlock2D'] * 3],
}


def read_unet(values):
  return diffusers_config.unet(values, 'unet/config.json')


def test_the_released_unconditional_unet():
  section, in_channels, context, size = read_unet(CELEBAHQ)
  assert (in_channels, context, size) == (3, 0, 64)
  assert section == dict(
    out_channels=3, channels=224, multipliers=(1, 2, 3, 4), num_res_blocks=2,
    attention='self', norm_groups=32, dropout=0.0, scale_shift_norm=False,
    attention_levels=(1, 2, 3), resblock_updown=False, head_width=32,
  )  # fmt: skip


def test_stable_diffusion_s_unet():
  section, in_channels, context, size = read_unet(STABLE)
  assert (in_channels, context, size) == (4, 768, 64)
  # The key says width; its 8 is the number of heads.
  assert section['num_heads'] == 8 and 'head_width' not in section
  assert section['multipliers'] == (1, 2, 4, 4)
  assert section['attention_levels'] == (0, 1, 2)
  assert section['attention'] == 'cross'


def test_numbers_of_heads_that_follow_the_width_are_a_width():
  heads = {'attention_head_dim': [5, 10, 20, 20]}
  section, *_ = read_unet(STABLE | heads)
  assert section['head_width'] == 64 and 'num_heads' not in section
  with pytest.raises(UserError, match='attention_head_dim'):
    read_unet(STABLE | {'attention_head_dim': [5, 10, 10, 20]})


def test_the_first_versions_names_of_blocks():
  old = lambda types: [f'UNetRes{kind}' for kind in types]
  values = CELEBAHQ | {
    'down_block_types': old(CELEBAHQ['down_block_types']),
    'up_block_types': old(CELEBAHQ['up_block_types']),
  }
  assert read_unet(values) == read_unet(CELEBAHQ)


@pytest.mark.parametrize(
  ('change', 'named'),
  [
    ({'_class_name': 'UNet3DModel'}, 'UNet3DModel'),
    ({'flip_sin_to_cos': False}, 'flip_sin_to_cos=False'),
    ({'norm_eps': 1e-6}, 'norm_eps=1e-06'),
    ({'class_embed_type': 'timestep'}, "class_embed_type='timestep'"),
    ({'new_feature': 3}, 'new_feature=3 is not supported'),
    ({'block_out_channels': [224, 448, 600, 896]}, 'multiples of the first'),
    ({'block_out_channels': 'wide'}, "block_out_channels='wide'"),
    ({'layers_per_block': [1, 2, 2, 2]}, 'layers_per_block'),
    ({'layers_per_block': 10**9}, 'layers_per_block'),
    ({'sample_size': [64, 32]}, 'sample_size'),
    ({'down_block_types': ['DownBlock2D'] * 4}, 'differ in where they attend'),
    ({'down_block_types': ['KDownBlock2D'] * 4}, 'KDownBlock2D'),
    ({'down_block_types': ['DownBlock2D'] * 3}, '4 of them'),
    ({'downsample_type': 'resnet'}, 'change the resolution'),
    ({'resnet_time_scale_shift': 'scale_shift'}, 'attn_norm_num_groups'),
  ],
)
def test_a_unet_that_is_none_of_ours_is_refused(change, named):
  with pytest.raises(UserError, match=f'unet/config.json: .*{named}'):
    read_unet(CELEBAHQ | change)


@pytest.mark.parametrize(
  'change',
  [
    {'only_cross_attention': True},
    {'dual_cross_attention': True},
    {'conv_in_kernel': 1},
    {'mid_block_type': 'UNetMidBlock2D'},
    {'cross_attention_dim': [768, 768, 1024, 1024]},
    {'transformer_layers_per_block': [1, 2, 4, 4]},
    {'addition_embed_type': 'text'},
    {'encoder_hid_dim': 4096},
  ],
)
def test_later_unets_with_more_in_them_are_refused(change):
  with pytest.raises(UserError, match=next(iter(change))):
    read_unet(STABLE | change)


def test_schedulers():
  read = lambda **values: diffusers_config.scheduler(
    {'beta_schedule': 'scaled_linear', **values}, 'scheduler_config.json'
  )
  stable = dict(
    _class_name='PNDMScheduler', beta_start=0.00085, beta_end=0.012,
    skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False,
    clip_sample=False,
  )  # fmt: skip
  schedule, loss, sampling, notes = read(**stable)
  assert schedule == dict(
    kind='linear', num_timesteps=1000, start=0.00085, end=0.012
  )
  assert loss == {'prediction': 'eps'}
  assert sampling == {'sampler': 'plms', 'spacing': 'offset'} and not notes

  ddim = dict(_class_name='DDIMScheduler', clip_sample=False)
  assert read(**ddim)[2:] == (
    {'sampler': 'ddim', 'spacing': 'leading'}, [],
  )  # fmt: skip
  trailing = read(**ddim, timestep_spacing='trailing', steps_offset=1)
  assert trailing[2]['spacing'] == 'trailing' and not trailing[3]
  v = read(**ddim, prediction_type='v_prediction')
  assert v[1] == {'prediction': 'v'}
  zero = read(**ddim, rescale_betas_zero_snr=True)
  assert zero[0]['zero_terminal_snr'] is True
  # A key of another class, as folders hand it on; theirs ends on clean data.
  euler = read(
    _class_name='EulerDiscreteScheduler',
    set_alpha_to_one=False,
    timestep_spacing='trailing',
  )
  assert euler[2:] == (
    {'sampler': 'euler', 'spacing': 'trailing'}, [],
  )  # fmt: skip
  karras = read(
    _class_name='DPMSolverMultistepScheduler',
    algorithm_type='sde-dpmsolver++',
    use_karras_sigmas=True,
  )
  assert karras[2:] == (
    {'sampler': 'dpmpp_2m_sde', 'spacing': 'karras'}, [],
  )  # fmt: skip
  cosine = read(**(ddim | dict(beta_schedule='squaredcos_cap_v2')))
  assert cosine[0] == dict(kind='cosine', num_timesteps=1000)


@pytest.mark.parametrize(
  ('values', 'told'),
  [
    (dict(_class_name='LMSDiscreteScheduler'), 'LMSDiscreteScheduler'),
    (dict(_class_name='UniPCMultistepScheduler',
          timestep_spacing='linspace'), "'log_snr' comes nearest"),
    (dict(_class_name='DPMSolverMultistepScheduler', solver_order=3,
          use_karras_sigmas=True), 'solver_order=3'),
    (dict(_class_name='PNDMScheduler', set_alpha_to_one=True), 'Runge-Kutta'),
    (dict(_class_name='DDIMScheduler'), 'clip_sample'),
    (dict(_class_name='EulerDiscreteScheduler'), "'linspace'"),
    (dict(_class_name='DDIMScheduler', clip_sample=False,
          thresholding=True), 'thresholding'),
    (dict(_class_name='DDIMScheduler', clip_sample=False,
          timestep_spacing='linspace'), 'linspace'),
  ],
)  # fmt: skip
def test_what_a_sampler_of_theirs_does_otherwise_is_told(values, told):
  notes = diffusers_config.scheduler(values, 'scheduler_config.json')[3]
  assert len(notes) == 1 and told in notes[0]


@pytest.mark.parametrize(
  'values',
  [
    {'beta_schedule': 'sigmoid'},
    {'trained_betas': [0.1, 0.2]},
    {'prediction_type': 'flow'},
    {'num_train_timesteps': 'many'},
  ],
)
def test_other_noise_is_refused(values):
  with pytest.raises(UserError, match=next(iter(values))):
    diffusers_config.scheduler(values, 'scheduler_config.json')


@pytest.mark.parametrize(
  ('change', 'named'),
  [
    ({'_class_name': 'AutoencoderTiny'}, 'AutoencoderTiny'),
    ({'norm_type': 'spatial'}, 'norm_type'),
    ({'scaling_factor': 0.0}, 'scaling_factor=0.0'),
    ({'act_fn': 'relu'}, "act_fn='relu'"),
    ({'up_block_types': ['UpDecoderBlock2D', 'AttnUpDecoderBlock2D']},
     'different levels'),
    ({'latents_mean': [1.0]}, 'latents_mean'),
  ],
)  # fmt: skip
def test_other_autoencoders_are_refused(change, named):
  values = diffusers_release.first_stage(folders.VQ, 16, 1.0)
  with pytest.raises(UserError, match=named):
    diffusers_config.first_stage(values | change, 'vae/config.json')


def test_text_encoders():
  bert = diffusers_config.bert({}, 'bert/config.json')
  assert bert == dict(
    name='text', width=1280, depth=32, vocab_size=30522, length=77,
    num_heads=8, head_width=64,
  )  # fmt: skip
  with pytest.raises(UserError, match='encoder_ffn_dim=100'):
    diffusers_config.bert({'encoder_ffn_dim': 100}, 'bert/config.json')
  large = dict(
    hidden_size=768, intermediate_size=3072, num_attention_heads=12,
    num_hidden_layers=12, hidden_act='quick_gelu',
  )  # fmt: skip
  clip = diffusers_config.clip_text(large, 'text_encoder/config.json')
  assert clip['width'] == 768 and clip['ffn_width'] == 3072
  with pytest.raises(UserError, match='hidden_act'):
    diffusers_config.clip_text(
      large | {'hidden_act': 'relu'}, 'text_encoder/config.json'
    )
