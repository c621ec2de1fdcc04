"""The release's config, as one of ours.

Every key that the release's classes take is here: read, refused unless it has
the one value that is supported, or ignored because it changes no network.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ldm_jax.interop import (
  compvis_names,
  compvis_optim,
  compvis_task,
  masked_image,
)
from ldm_jax.interop.compvis_yaml import Section, shown
from ldm_jax.types import UserError

MODELS = ('LatentDiffusion', 'Layout2ImgDiffusion')
# Reads a masked image beside the text; Stable Diffusion's inpainting.
HYBRID = 'LatentInpaintDiffusion'
FIRST_STAGES = {
  'AutoencoderKL': 'kl',
  'VQModelInterface': 'vq',
  'VQModel': 'vq',
  'IdentityFirstStage': 'identity',
}
SCHEDULES = ('linear', 'cosine', 'sqrt_linear', 'sqrt')
# Where our exports say, beside `model`, what the release has no key for.
OWN = 'ldm_jax'

# Keys that change nothing in the networks; the scheduler is compvis_optim's.
IGNORED = {
  'model': (
      'ckpt_path', 'clip_denoised', 'cond_stage_forward', 'cond_stage_key',
      'cond_stage_trainable', 'first_stage_key', 'ignore_keys',
      'load_only_unet', 'log_every_t', 'monitor', 'num_timesteps_cond',
      'scheduler_config', 'use_positional_encodings', 'v_posterior',
  ),
  # How a model without the mask's channels would be given them.
  'hybrid': (
      'c_concat_log_end', 'c_concat_log_start', 'finetune_keys',
      'keep_finetune_dims',
  ),
  'unet': ('image_size', 'legacy', 'use_checkpoint', 'use_fp16'),
  'first_stage': (
      'batch_resize_range', 'ckpt_path', 'colorize_nlabels', 'ignore_keys',
      'image_key', 'lossconfig', 'lr_g_factor', 'monitor',
      'sane_index_shape', 'scheduler_config', 'use_ema',
  ),
  'loss': ('disc_conditional', 'disc_in_channels', 'n_classes', 'use_actnorm'),
}  # fmt: skip

# Keys with one supported value: the release's default.
FIXED = {
  'model': {'given_betas': None},
  'unet': {
    'conv_resample': True,
    'dims': 2,
    'n_embed': None,
    'num_classes': None,
    'use_new_attention_order': False,
  },
  'first_stage': {'remap': None},
  'ddconfig': {
    'give_pre_end': False,
    'resamp_with_conv': True,
    'use_linear_attn': False,
  },
  'loss': {'disc_factor': 1.0, 'perceptual_loss': 'lpips',
           'pixelloss_weight': 1.0},
}  # fmt: skip

# Theirs -> ours, of the first stages' losses.
LOSS_KEYS = {
  'codebook_weight': 'codebook_weight',
  'disc_loss': 'disc_loss',
  'disc_ndf': 'disc_channels',
  'disc_num_layers': 'disc_layers',
  'disc_start': 'disc_start',
  'disc_weight': 'disc_weight',
  'kl_weight': 'kl_weight',
  'logvar_init': 'logvar_init',
  'perceptual_weight': 'perceptual_weight',
  'pixel_loss': 'pixel',
}


@dataclasses.dataclass(frozen=True)
class Read:
  """What a YAML means here.

  `config` holds the sections that it decides: stage, first_stage, optim, loss,
  data, num_steps where the rate falls and, for diffusion, unet, task, schedule,
  scale_factor (0: it is in the checkpoint). `notes` says what was left out.
  """

  config: dict[str, Any]
  use_ema: bool
  scale_by_std: bool
  notes: list[str]
  version: str = ''  # Of a text encoder: a name to download, or a folder.


def read(content: Mapping[str, Any], path: str = 'the config') -> Read:
  """The release's config -> ours.

  Raises:
    UserError: a class or key that matters and is not known, or a value that
      is not supported; named with its place in the file.
  """
  model = Section(content, path).section('model')
  target = model.target((*MODELS, HYBRID, *FIRST_STAGES))
  params = model.section('params')
  training = compvis_optim.read(model, params)
  if target not in FIRST_STAGES:
    null = _null_label(content, path)
    return _latent_diffusion(params, training, target == HYBRID, null)
  config = {
    'stage': 'first_stage',
    'first_stage': first_stage(target, params),
    'loss': first_stage_loss(params),
    **training,
    'data': {'size': _resolution(params)},
  }
  # Adam with the release's betas.
  config['optim'] |= {'b1': 0.5, 'b2': 0.9, 'weight_decay': 0.0}
  return Read(config, False, False, params.notes)


def _null_label(content: Mapping[str, Any], path: str) -> bool | None:
  """Whether the last class is the null: said in our own exports alone."""
  own = Section(content, path).section(OWN, optional=True)
  return own.flag('null_label', False) if own.values else None


def _latent_diffusion(
  params: Section,
  training: Mapping[str, Any],
  hybrid: bool,
  null: bool | None,
) -> Read:
  known = (
      'beta_schedule', 'channels', 'concat_mode', 'cond_stage_config',
      'conditioning_key', 'cosine_s', 'first_stage_config', 'image_size',
      'l_simple_weight', 'learn_logvar', 'linear_end', 'linear_start',
      'logvar_init', 'loss_type', 'original_elbo_weight', 'parameterization',
      'scale_by_std', 'scale_factor', 'timesteps', 'unet_config', 'use_ema',
  )  # fmt: skip
  ignored = IGNORED['model'] + (IGNORED['hybrid'] if hybrid else ())
  known += compvis_task.HYBRID_KEYS if hybrid else ()
  params.check(known, ignored, FIXED['model'])
  first = params.section('first_stage_config')
  first_params = first.section('params', optional=True)
  section = first_stage(first.target(FIRST_STAGES), first_params)
  channels = params.integer('channels', 3)
  if section['name'] == 'identity' and channels != 3:
    section['channels'] = channels
  network, in_channels, width = unet(params.section('unet_config'))
  f = 2 ** (len(section.get('multipliers', (1,))) - 1)
  cond = compvis_task.task(params, width, hybrid, null)
  if cond['name'] == 'super_resolution':
    cond['factor'] = f  # The small image has the latent's size.
  side = params.integer('image_size', 0) * f or _resolution(first_params)
  scale_by_std = params.flag('scale_by_std', False)
  config = {
    'stage': 'diffusion',
    'first_stage': section,
    'unet': network,
    'task': cond,
    'schedule': {
      'kind': params.choice('beta_schedule', SCHEDULES, 'linear'),
      'num_timesteps': params.integer('timesteps', 1000),
      'start': params.number('linear_start', 1e-4),
      'end': params.number('linear_end', 2e-2),
      'cosine_s': params.number('cosine_s', 8e-3),
    },
    'loss': {
      'prediction': params.choice(
        'parameterization', ('eps', 'x0', 'v'), 'eps'
      ),
      'kind': params.choice('loss_type', ('l1', 'l2'), 'l2'),
      'simple_weight': params.number('l_simple_weight', 1.0),
      'elbo_weight': params.number('original_elbo_weight', 0.0),
      'learn_logvar': params.flag('learn_logvar', False),
      'logvar_init': params.number('logvar_init', 0.0),
    },
    **training,
    'scale_factor': 0.0 if scale_by_std else params.number('scale_factor', 1.0),
    'data': {'size': side},
  }
  _check_channels(params, config, in_channels)
  if cond['name'] == 'semantic' and 2 ** cond['stages'] != f:
    raise UserError(
      f'{params.path}: the rescaler halves {cond["stages"]} times, but the '
      f'first stage divides by {f}.'
    )
  use_ema = params.flag('use_ema', True)
  version = ''
  if masked_image.encoder_of(cond['name']) == 'clip_text':
    stage = params.section('cond_stage_config').section('params', True)
    version = str(stage.values.get('version', ''))
  return Read(config, use_ema, scale_by_std, params.notes, version)


def _check_channels(params: Section, config: dict, in_channels: int):
  latent = compvis_names.latent_channels(config['first_stage'])
  wanted = compvis_names.in_channels(config)
  out = config['unet']['out_channels']
  if (in_channels, out) != (wanted, latent):
    raise UserError(
      f'{params.path}: {params.place("unet_config.params")} has '
      f'in_channels={in_channels} and out_channels={out}; task '
      f'{config["task"]["name"]!r} on a first stage with embed_dim={latent} '
      f'needs {wanted} and {latent}.'
    )


def first_stage(target: str, params: Section) -> dict[str, Any]:
  """The `first_stage` section of an autoencoder's parameters."""
  kind = FIRST_STAGES[target]
  if kind == 'identity':
    return {'name': 'identity'}
  known = ('ddconfig', 'embed_dim', *(('n_embed',) if kind == 'vq' else ()))
  params.check(known, IGNORED['first_stage'], FIXED['first_stage'])
  dd = params.section('ddconfig').check(
      (
          'attn_resolutions', 'attn_type', 'ch', 'ch_mult', 'double_z',
          'dropout', 'in_channels', 'num_res_blocks', 'out_ch', 'resolution',
          'tanh_out', 'z_channels',
      ),
      fixed=FIXED['ddconfig'],
      strict=False,
  )  # fmt: skip
  if dd.flag('double_z', True) != (kind == 'kl'):
    wanted = 'true' if kind == 'kl' else 'false'
    raise dd.wrong('double_z', f'{wanted} in a {kind} first stage')
  multipliers = dd.integers('ch_mult', (1, 2, 4, 8))
  attention = dd.integers('attn_resolutions')
  if dd.choice('attn_type', ('vanilla', 'none'), 'vanilla') == 'none':
    attention = ()
  section = {
    'name': kind,
    'z_channels': dd.integer('z_channels'),
    'embed_dim': params.integer('embed_dim'),
    'channels': dd.integer('ch'),
    'multipliers': multipliers,
    'num_res_blocks': dd.integer('num_res_blocks'),
    # Listed there by resolution, here by level.
    'attention_levels': tuple(
      i
      for i in range(len(multipliers))
      if dd.integer('resolution') // 2**i in attention
    ),
    'mid_attention': dd.values.get('attn_type') != 'none',
    'dropout': dd.number('dropout', 0.0),
    'in_channels': dd.integer('in_channels'),
    'out_channels': dd.integer('out_ch'),
  }
  if dd.flag('tanh_out', False):
    section['tanh_out'] = True
  if kind == 'vq':
    section['num_codes'] = params.integer('n_embed')
  return section


def _resolution(first_params: Section) -> int:
  """What a first stage was trained at, in pixels."""
  return first_params.section('ddconfig', True).integer('resolution', 256)


def first_stage_loss(params: Section) -> dict[str, Any]:
  """The `loss` section; what training alone needs is never fatal here."""
  loss = params.section('lossconfig', optional=True)
  target = loss.name() or 'Identity'
  if target not in ('LPIPSWithDiscriminator', 'VQLPIPSWithDiscriminator'):
    if target != 'Identity':
      loss.notes.append(f'{loss.where}: the loss {target} is left out.')
    return {'perceptual_weight': 0.0, 'disc_weight': 0.0}
  section = {'disc_weight': 1.0}  # The release's default.
  values = loss.section('params', optional=True)
  for key, value in values.values.items():
    if key in LOSS_KEYS:
      section[LOSS_KEYS[key]] = value
    elif key not in IGNORED['loss'] and FIXED['loss'].get(key) != value:
      values.notes.append(f'{values.place(key)}={shown(value)}: left out.')
  return section


def unet(section: Section) -> tuple[dict[str, Any], int, int]:
  """(`unet` section, input channels, width of the context or 0)."""
  section.target(('UNetModel',))
  u = section.section('params').check(
      (
          'attention_resolutions', 'channel_mult', 'context_dim', 'dropout',
          'in_channels', 'model_channels', 'num_head_channels', 'num_heads',
          'num_res_blocks', 'out_channels', 'resblock_updown',
          'transformer_depth', 'use_scale_shift_norm',
          'num_heads_upsample', 'use_spatial_transformer',
      ),
      IGNORED['unet'],
      FIXED['unet'],
  )  # fmt: skip
  multipliers = u.integers('channel_mult', (1, 2, 4, 8))
  factors = u.integers('attention_resolutions')
  cross = u.flag('use_spatial_transformer', False)
  result = {
    'out_channels': u.integer('out_channels'),
    'channels': u.integer('model_channels'),
    'multipliers': multipliers,
    # Listed there by downsampling factor; some are never reached.
    'attention_levels': tuple(
      i for i in range(len(multipliers)) if 2**i in factors
    ),
    'num_res_blocks': u.integer('num_res_blocks'),
    'attention': 'cross' if cross else 'self',
    'transformer_depth': u.integer('transformer_depth', 1) if cross else 1,
    'scale_shift_norm': u.flag('use_scale_shift_norm', False),
    'resblock_updown': u.flag('resblock_updown', False),
    'dropout': u.number('dropout', 0.0),
  }
  # A head width, where given, wins.
  for theirs, ours in (
    ('num_head_channels', 'head_width'),
    ('num_heads', 'num_heads'),
  ):
    if u.integer(theirs, -1) > 0:
      result[ours] = u.integer(theirs)
      break
  else:
    raise u.wrong('num_heads', 'set, or num_head_channels')
  upwards = u.integer('num_heads_upsample', -1)
  if upwards not in (-1, result.get('num_heads', upwards)) and not cross:
    raise u.wrong('num_heads_upsample', '-1, or num_heads')
  return result, u.integer('in_channels'), _context_width(u) if cross else 0


def _context_width(u: Section) -> int:
  width = u.values.get('context_dim')
  if isinstance(width, list) and len(width) == 1:
    return u.integers('context_dim')[0]
  return u.integer('context_dim')
