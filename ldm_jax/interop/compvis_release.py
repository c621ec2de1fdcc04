"""Our config, as the release's YAML: the other direction of compvis_config."""

from collections.abc import Mapping
from typing import Any

from ldm_jax.interop import clip_names, compvis_names, masked_image
from ldm_jax.interop.compvis_config import LOSS_KEYS, OWN
from ldm_jax.types import UserError

_AUTOENCODERS = 'ldm.models.autoencoder.'
_ENCODERS = 'ldm.modules.encoders.modules.'
_GELU = 'quick_gelu'  # OpenAI's.
_IDENTITY = {'target': 'torch.nn.Identity'}

# task -> (conditioning_key, cond_stage_key)
_KEYS = {
  'unconditional': (None, 'image'),
  'class_label': ('crossattn', 'class_label'),
  'text': ('crossattn', 'caption'),
  'clip_text': ('crossattn', 'txt'),
  'layout': ('crossattn', 'coordinates_bbox'),
  'retrieval': ('crossattn', 'nix'),
  'semantic': ('concat', 'segmentation'),
  'super_resolution': ('concat', 'LR_image'),
  'inpainting': ('concat', 'masked_image'),
  'inpainting_text': ('hybrid', 'caption'),
  'inpainting_clip_text': ('hybrid', 'txt'),
}


def write(config: Mapping[str, Any], meta: Mapping[str, Any]) -> dict:
  """The YAML's content; `meta` has scale_factor and how it is kept.

  Raises:
    UserError: the release has no class for such a model.
  """
  rate = config.get('optim', {}).get('learning_rate', 1e-6)
  resolution = config['data']['size']
  section = config['first_stage']
  if 'unet' not in config or config.get('stage') == 'first_stage':
    stage = first_stage(section, resolution)
    loss = first_stage_loss(section, config.get('loss', {}))
    params = {'monitor': 'val/rec_loss', **stage['params'], 'lossconfig': loss}
    model = {'target': stage['target'].replace('Interface', '')}
    return {'model': {'base_learning_rate': rate, **model, 'params': params}}
  name = config['task']['name']
  if name not in _KEYS:
    raise UserError(
      f'The release has no model for task {name!r}; it has: {", ".join(_KEYS)}.'
    )
  key, cond_key = _KEYS[name]
  masked = _masked(config['task']) if name in masked_image.TASKS else {}
  schedule, loss = config.get('schedule', {}), config.get('loss', {})
  side = resolution // 2 ** (len(section.get('multipliers', (1,))) - 1)
  params = {
    'linear_start': schedule.get('start', 0.0015),
    'linear_end': schedule.get('end', 0.0195),
    'beta_schedule': schedule.get('kind', 'linear'),
    'cosine_s': schedule.get('cosine_s', 8e-3),
    'timesteps': schedule.get('num_timesteps', 1000),
    'loss_type': loss.get('kind', 'l2'),
    'parameterization': loss.get('prediction', 'eps'),
    'l_simple_weight': loss.get('simple_weight', 1.0),
    'original_elbo_weight': loss.get('elbo_weight', 0.0),
    'learn_logvar': loss.get('learn_logvar', False),
    'logvar_init': loss.get('logvar_init', 0.0),
    'first_stage_key': 'image',
    'cond_stage_key': cond_key,
    'cond_stage_trainable': name in ('class_label', 'text', 'layout',
                                     'semantic'),
    'image_size': side,
    'channels': config['unet']['out_channels'],
    'monitor': 'val/loss_simple_ema',
    'use_ema': meta.get('use_ema', True),
    **_scale(meta),
    **({'conditioning_key': key} if key else {}),
    'unet_config': unet(config, side),
    'first_stage_config': first_stage(section, resolution),
    'cond_stage_config': conditioner(config['task'], meta),
    **masked,
  }  # fmt: skip
  inpaints = name in masked_image.TASKS and key == 'hybrid'
  target = 'LatentInpaintDiffusion' if inpaints else 'LatentDiffusion'
  target = f'ldm.models.diffusion.ddpm.{target}'
  return {
    'model': {'base_learning_rate': rate, 'target': target, 'params': params},
    **_own(config),
  }


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
  """What the release has no key for; its programs read `model` alone."""
  null = config['task'].get('null_label')
  if null is None and config.get('null_prob') is not None:
    null = config['null_prob'] > 0
  if config['task']['name'] != 'class_label' or null is None:
    return {}
  return {OWN: {'null_label': null}}


def _masked(task: Mapping[str, Any]) -> dict[str, Any]:
  """How the masked image is told; refused where no class tells it so."""
  t = masked_image.filled(task)
  alone = t['name'] == 'inpainting'
  form = masked_image.PAPER if alone else masked_image.STABLE
  for key in ('hole', 'mask_low'):
    _require(t[key] == form[key], f'task.{key}', form[key])
  if alone:
    _require(not t['mask_first'], 'task.mask_first', False)
    return {}
  keys = ['mask', 'masked_image']
  # Null: the weights have the mask's channels, and are not to be given them.
  return {
    'concat_keys': keys if t['mask_first'] else keys[::-1],
    'finetune_keys': None,
  }


def _scale(meta: Mapping[str, Any]) -> dict[str, Any]:
  if meta.get('source', {}).get('scale_by_std'):  # A buffer of the checkpoint.
    return {'scale_by_std': True}
  return {'scale_factor': float(meta.get('scale_factor', 1.0))}


def first_stage(section: Mapping[str, Any], resolution: int) -> dict[str, Any]:
  """The autoencoder's class and parameters."""
  if section['name'] == 'identity':
    return {'target': f'{_AUTOENCODERS}IdentityFirstStage', 'params': {}}
  s = compvis_names.filled(compvis_names.FIRST_STAGE_DEFAULTS, section)
  _require(s.get('norm_groups', 32) == 32, 'first_stage.norm_groups', 32)
  mid = s['mid_attention']
  levels = s['attention_levels']
  _require(mid or not levels, 'first_stage.mid_attention', True)
  params = {
    'embed_dim': s['embed_dim'],
    'ddconfig': {
      'double_z': s['name'] == 'kl',
      'z_channels': s['z_channels'],
      'resolution': resolution,
      'in_channels': s['in_channels'],
      'out_ch': s['out_channels'],
      'ch': s['channels'],
      'ch_mult': list(s['multipliers']),
      'num_res_blocks': s['num_res_blocks'],
      'attn_resolutions': [resolution // 2**i for i in levels],
      'attn_type': 'vanilla' if mid else 'none',
      'dropout': s.get('dropout', 0.0),
      **({'tanh_out': True} if s.get('tanh_out') else {}),
    },
    'lossconfig': _IDENTITY,
  }
  if s['name'] == 'kl':
    return {'target': f'{_AUTOENCODERS}AutoencoderKL', 'params': params}
  return {
    'target': f'{_AUTOENCODERS}VQModelInterface',
    'params': {'n_embed': s['num_codes'], **params},
  }


def first_stage_loss(section: Mapping, loss: Mapping) -> dict[str, Any]:
  """The training loss, where there was one."""
  if not loss.get('perceptual_weight', 1.0) and not loss.get('disc_weight'):
    return _IDENTITY
  unused = 'codebook_weight' if section['name'] == 'kl' else 'kl_weight'
  params = {
    theirs: loss[ours]
    for theirs, ours in LOSS_KEYS.items()
    if ours in loss and ours != unused
  }
  params.setdefault('disc_start', 50_001)
  if section['name'] == 'kl':
    # Its class has no choice of pixel loss or discriminator's width.
    params = {
      k: v for k, v in params.items() if k not in ('pixel_loss', 'disc_ndf')
    }
    target = 'ldm.modules.losses.LPIPSWithDiscriminator'
    return {'target': target, 'params': params}
  params.pop('logvar_init', None)
  target = 'taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator'
  return {'target': target, 'params': params}


def unet(config: Mapping[str, Any], side: int) -> dict[str, Any]:
  """The U-Net's class and parameters."""
  s = compvis_names.filled(compvis_names.UNET_DEFAULTS, config['unet'])
  _require(s.get('norm_groups', 32) == 32, 'unet.norm_groups', 32)
  params = {
    'image_size': side,
    'in_channels': compvis_names.in_channels(config),
    'out_channels': s['out_channels'],
    'model_channels': s['channels'],
    'attention_resolutions': [2**i for i in s['attention_levels']],
    'num_res_blocks': s['num_res_blocks'],
    'channel_mult': list(s['multipliers']),
    'use_scale_shift_norm': s['scale_shift_norm'],
    'resblock_updown': s['resblock_updown'],
    'dropout': s.get('dropout', 0.0),
  }
  if s.get('head_width'):
    params['num_head_channels'] = s['head_width']
  else:
    params['num_heads'] = s['num_heads']
  if s['attention'] == 'cross':
    params |= {
      'use_spatial_transformer': True,
      'transformer_depth': s['transformer_depth'],
      'context_dim': compvis_names.context_width(config),
    }
  target = 'ldm.modules.diffusionmodules.openaimodel.UNetModel'
  return {'target': target, 'params': params}


def conditioner(
  task: Mapping[str, Any], meta: Mapping[str, Any]
) -> str | dict[str, Any]:
  """The conditioning stage."""
  name = task['name']
  if name == 'unconditional':
    return '__is_unconditional__'
  if name == 'inpainting':
    return '__is_first_stage__'
  if name in ('super_resolution', 'retrieval'):
    return _IDENTITY
  if masked_image.encoder_of(name) == 'clip_text':
    return _clip(task, meta.get('source') or {})
  if name == 'class_label':
    params = {'n_classes': task['num_classes'], 'embed_dim': task['width'],
              'key': 'class_label'}  # fmt: skip
    return {'target': f'{_ENCODERS}ClassEmbedder', 'params': params}
  if name == 'semantic':
    params = {
      'n_stages': task.get('stages', 2),
      'in_channels': task['num_classes'],
      'out_channels': task.get('channels', 3),
    }
    return {'target': f'{_ENCODERS}SpatialRescaler', 'params': params}
  t = compvis_names.filled(compvis_names.TOKEN_TRANSFORMER[name], task)
  _require(t['num_heads'] == 8, 'task.num_heads', 8)
  _require(t['head_width'] == 64, 'task.head_width', 64)
  params = {
    'n_embed': t['width'],
    'n_layer': t['depth'],
    'vocab_size': t['vocab_size'],
    'max_seq_len': t['length'],
    'use_tokenizer': name != 'layout',
    'embedding_dropout': t.get('dropout', 0.0),
  }
  return {'target': f'{_ENCODERS}BERTEmbedder', 'params': params}


def _clip(task: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
  """OpenAI's ViT-L/14, or what an import's config named."""
  if source.get('format') != 'compvis':
    t = compvis_names.filled({**clip_names.DEFAULTS, 'activation': _GELU}, task)
    for key, wanted in clip_names.DEFAULTS.items():
      inner = (0, 4 * clip_names.DEFAULTS['width'])
      holds = t[key] in inner if key == 'ffn_width' else t[key] == wanted
      _require(holds, f'task.{key}', wanted)
    _require(t['activation'] == _GELU, 'task.activation', _GELU)
  params = {
    'version': source.get('clip_version'),
    'max_length': task.get('max_length'),
  }
  params = {key: value for key, value in params.items() if value}
  target = f'{_ENCODERS}FrozenCLIPEmbedder'
  return {'target': target, **({'params': params} if params else {})}


def _require(holds: bool, key: str, value: Any):
  if not holds:
    raise UserError(
      f'The release can only hold models with {key}={value}; this one has '
      'another. Use --format=safetensors.'
    )
