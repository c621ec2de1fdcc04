"""Our sections, as diffusers' component configs: diffusers_config's inverse."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.diffusion import schedule as schedules
from ldm_jax.interop import clip_names, compvis_names
from ldm_jax.interop.diffusers_config import (
  FIRST_STAGES,
  PREDICTIONS,
  SCHEDULES,
  SPACINGS,
)
from ldm_jax.types import UserError

# The version whose keys these are.
_VERSION = {'_diffusers_version': '0.42.1'}
_COSINE_S = 8e-3  # Their only one.
_BY_OURS = lambda table: {ours: theirs for theirs, ours in table.items()}


def _set(section: Mapping[str, Any]) -> dict[str, Any]:
  """Without the keys that a run leaves unset."""
  return {k: v for k, v in section.items() if v is not None}


def first_stage(
  section: Mapping, image_size: int, scale_factor: float | None
) -> dict[str, Any]:
  """AutoencoderKL's or VQModel's config.

  Raises:
    UserError: they have no such autoencoder.
  """
  s = {**compvis_names.FIRST_STAGE_DEFAULTS, **_set(section)}
  if s['name'] == 'kl' and s['z_channels'] != s['embed_dim']:
    raise UserError(
      f'first_stage: z_channels={s["z_channels"]} and embed_dim='
      f"{s['embed_dim']} differ; diffusers' AutoencoderKL has one number for "
      'both.'
    )
  if s.get('tanh_out'):
    raise UserError(
      'first_stage.tanh_out=True: the decoders of diffusers end without a tanh.'
    )
  levels = range(len(s['multipliers']))
  attends = lambda i: 'Attn' if i in s['attention_levels'] else ''
  config = {
    '_class_name': _BY_OURS(FIRST_STAGES)[s['name']],
    **_VERSION,
    'act_fn': 'silu',
    'block_out_channels': [s['channels'] * m for m in s['multipliers']],
    'down_block_types': [f'{attends(i)}DownEncoderBlock2D' for i in levels],
    'in_channels': s['in_channels'],
    'latent_channels': s['z_channels'],
    'layers_per_block': s['num_res_blocks'],
    'mid_block_add_attention': s['mid_attention'],
    'norm_num_groups': s.get('norm_groups', 32),
    'out_channels': s['out_channels'],
    'sample_size': image_size,
    **({} if scale_factor is None else {'scaling_factor': scale_factor}),
    'up_block_types': [f'{attends(i)}UpDecoderBlock2D' for i in levels][::-1],
  }
  if s['name'] == 'vq':
    config['num_vq_embeddings'] = s['num_codes']
    config['vq_embed_dim'] = s['embed_dim']
  return config


def unet(
  section: Mapping, in_channels: int, context: int, size: int
) -> dict[str, Any]:
  """UNet2DModel's or UNet2DConditionModel's config.

  Raises:
    UserError: they have no such U-Net.
  """
  s = {**compvis_names.UNET_DEFAULTS, **_set(section)}
  cross = s['attention'] == 'cross'
  if cross and not context:
    raise UserError(
      "unet.attention='cross' without a context: diffusers has no such U-Net."
    )
  if cross and s['resblock_updown']:
    raise UserError(
      "unet.resblock_updown=True with attention='cross': diffusers has no "
      'such U-Net.'
    )
  widths = [s['channels'] * m for m in s['multipliers']]
  levels, resnet = range(len(widths)), s['resblock_updown']

  def kind(side, level):
    if level in s['attention_levels']:
      return f'{"Cross" if cross else ""}Attn{side}Block2D'
    return f'Resnet{side}sampleBlock2D' if resnet else f'{side}Block2D'

  config = {
    '_class_name': 'UNet2DConditionModel' if cross else 'UNet2DModel',
    **_VERSION,
    'act_fn': 'silu',
    'block_out_channels': widths,
    'down_block_types': [kind('Down', i) for i in levels],
    'dropout': s.get('dropout', 0.0),
    'flip_sin_to_cos': True,
    'freq_shift': 0,
    'in_channels': in_channels,
    'layers_per_block': s['num_res_blocks'],
    'norm_eps': 1e-5,
    'norm_num_groups': s.get('norm_groups', 32),
    'out_channels': s['out_channels'],
    'resnet_time_scale_shift': (
      'scale_shift' if s['scale_shift_norm'] else 'default'
    ),
    'sample_size': size,
    'up_block_types': [kind('Up', i) for i in reversed(levels)],
  }
  if cross:
    # Their key's name is a mistake: these are numbers of heads.
    heads = s.get('num_heads')
    config['attention_head_dim'] = heads or [
      width // s['head_width'] for width in widths
    ]
    config['cross_attention_dim'] = context
    config['transformer_layers_per_block'] = s['transformer_depth']
    return config
  config['attention_head_dim'] = _head_width(s, widths)
  if s['scale_shift_norm']:
    config['attn_norm_num_groups'] = s.get('norm_groups', 32)
  sampler = 'resnet' if resnet else 'conv'
  return config | {'downsample_type': sampler, 'upsample_type': sampler}


def _head_width(s: Mapping, widths: list[int]) -> int | None:
  """Of every attention; None is one head, of whatever width."""
  heads = s.get('num_heads')
  if heads is None:
    return s['head_width']
  if heads == 1:
    return None
  attending = {widths[i] for i in s['attention_levels']} | {widths[-1]}
  if len(attending) > 1:
    raise UserError(
      f"unet.num_heads={heads} with attention='self' at widths "
      f"{sorted(attending)}: diffusers' UNet2DModel has one head width for "
      'all levels.'
    )
  return widths[-1] // heads


def bert(task: Mapping) -> dict[str, Any]:
  """LDMBertModel's config."""
  t = {**compvis_names.TOKEN_TRANSFORMER['text'], **_set(task)}
  return {
    'architectures': ['LDMBertModel'],
    'model_type': 'ldmbert',
    'activation_function': 'gelu',
    'd_model': t['width'],
    'dropout': t.get('dropout', 0.0),
    'encoder_attention_heads': t['num_heads'],
    'encoder_ffn_dim': 4 * t['width'],
    'encoder_layers': t['depth'],
    'head_dim': t['head_width'],
    'max_position_embeddings': t['length'],
    'pad_token_id': t.get('special_tokens', (101, 102, 0))[2],
    'vocab_size': t['vocab_size'],
  }


def clip_text(task: Mapping) -> dict[str, Any]:
  """CLIPTextModel's config."""
  t = {**clip_names.DEFAULTS, **_set(task)}
  start, end, pad = t.get('special_tokens', (49406, 49407, 49407))
  return {
    'architectures': ['CLIPTextModel'],
    'model_type': 'clip_text_model',
    'bos_token_id': start,
    'eos_token_id': end,
    'pad_token_id': pad,
    'hidden_act': t.get('activation', 'quick_gelu'),
    'hidden_size': t['width'],
    'intermediate_size': t['ffn_width'] or 4 * t['width'],
    'layer_norm_eps': 1e-5,
    'max_position_embeddings': t['length'],
    'num_attention_heads': t['num_heads'],
    'num_hidden_layers': t['depth'],
    'vocab_size': t['vocab_size'],
  }


def scheduler(config: Mapping[str, Any]) -> dict[str, Any]:
  """DDIMScheduler's config, or PNDMScheduler's where the run samples so."""
  s = {'kind': 'linear', 'num_timesteps': 1000, 'start': 0.0015, 'end': 0.0195}
  s |= {'cosine_s': _COSINE_S, **_set(config.get('schedule', {}))}
  sampling = _set(config.get('sampling', {}))
  # DDIM and PNDM visit whole timesteps; the run's own solver is not exported.
  spacing = sampling.get('spacing')
  if spacing == 'compvis':  # Theirs ends where it should.
    spacing = 'offset'
  if spacing not in SPACINGS.values():
    spacing = 'leading'
  name, offset, to_one = _BY_OURS(SPACINGS)[spacing]
  zero = s.get('zero_terminal_snr', False)
  plms = sampling.get('sampler') == 'plms' and spacing != 'trailing'
  plms = plms and not zero  # Their PNDM has none.
  prediction = config.get('loss', {}).get('prediction', 'eps')
  result = {
    '_class_name': 'PNDMScheduler' if plms else 'DDIMScheduler',
    **_VERSION,
    'beta_end': s['end'],
    'beta_start': s['start'],
    'num_train_timesteps': s['num_timesteps'],
    'prediction_type': _BY_OURS(PREDICTIONS)[prediction],
    'set_alpha_to_one': to_one,
    'steps_offset': offset,
    'timestep_spacing': name,
    **({'rescale_betas_zero_snr': True} if zero else {}),
    **({'skip_prk_steps': True} if plms else {'clip_sample': False}),
  }
  named = s['kind'] in SCHEDULES.values()
  if named and (s['kind'] != 'cosine' or s['cosine_s'] == _COSINE_S):
    result['beta_schedule'] = _BY_OURS(SCHEDULES)[s['kind']]
  else:  # Neither 'sqrt' nor another offset of 'cosine' has a name there.
    a = schedules.make(**{**s, 'zero_terminal_snr': False}).alpha_bar
    result['trained_betas'] = (1.0 - a / np.append(1.0, a[:-1])).tolist()
  return result
