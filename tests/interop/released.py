"""The release's configs, restated: what each file of weights was made from.

`CONFIGS[name]()` is the parsed YAML of the checkpoint of that name, with the
keys that its file has; `tiny` shrinks one to what a test can run.
"""

import copy

FIRST_STAGES = {
  # name: kind, z, codes, multipliers, attention resolutions, attention type
  'vq-f4': ('vq', 3, 8192, (1, 2, 4), (), 'vanilla'),
  'vq-f4-noattn': ('vq', 3, 8192, (1, 2, 4), (), 'none'),
  'vq-f8': ('vq', 4, 16384, (1, 2, 2, 4), (32,), 'vanilla'),
  'vq-f8-n256': ('vq', 4, 256, (1, 2, 2, 4), (32,), 'vanilla'),
  'vq-f16': ('vq', 8, 16384, (1, 1, 2, 2, 4), (16,), 'vanilla'),
  'kl-f4': ('kl', 3, 0, (1, 2, 4), (), 'vanilla'),
  'kl-f8': ('kl', 4, 0, (1, 2, 4, 4), (), 'vanilla'),
  'kl-f16': ('kl', 16, 0, (1, 1, 2, 2, 4), (16,), 'vanilla'),
  'kl-f32': ('kl', 64, 0, (1, 1, 2, 2, 4, 4), (16, 8), 'vanilla'),
}
LOSSES = {
  'kl': 'ldm.modules.losses.LPIPSWithDiscriminator',
  'vq': 'taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator',
}
IDENTITY = {'target': 'torch.nn.Identity'}
MODULES = 'ldm.modules.encoders.modules.'


def first_stage(name: str, interface: bool = False) -> dict:
  kind, z, codes, multipliers, attention, attn_type = FIRST_STAGES[name]
  target = {'kl': 'AutoencoderKL', 'vq': 'VQModel'}[kind]
  params = {
    'embed_dim': z,
    'monitor': 'val/rec_loss',
    'ddconfig': {
      'double_z': kind == 'kl',
      'z_channels': z,
      'resolution': 256,
      'in_channels': 3,
      'out_ch': 3,
      'ch': 128,
      'ch_mult': list(multipliers),
      'num_res_blocks': 2,
      'attn_resolutions': list(attention),
      'dropout': 0.0,
    },
    'lossconfig': IDENTITY
    if interface
    else {'target': LOSSES[kind], 'params': {'disc_start': 1}},
  }
  if attn_type != 'vanilla':
    params['ddconfig']['attn_type'] = attn_type
  if kind == 'vq':
    params['n_embed'] = codes
    target += 'Interface' * interface
  return {'target': f'ldm.models.autoencoder.{target}', 'params': params}


def first_stage_config(name: str) -> dict:
  return {'model': {'base_learning_rate': 4.5e-6, **first_stage(name)}}


def conditioner(name: str, **params) -> dict:
  return {'target': MODULES + name, 'params': params}


def diffusion(
  stage: str, cond, unet: dict, start: float = 0.0015, end: float = 0.0195, **p
) -> dict:
  """A LatentDiffusion config; `cond` is its cond_stage_config."""
  first = first_stage(stage, interface=True)
  z = first['params']['embed_dim']
  side = p.pop('image_size', 256 // 2 ** (len(FIRST_STAGES[stage][3]) - 1))
  network = {
    'image_size': side,
    'in_channels': z,
    'out_channels': z,
    'num_res_blocks': 2,
    **unet,
  }
  return {
    'model': {
      'base_learning_rate': 1e-6,
      'target': 'ldm.models.diffusion.ddpm.LatentDiffusion',
      'params': {
        'linear_start': start,
        'linear_end': end,
        'log_every_t': 200,
        'timesteps': 1000,
        'first_stage_key': 'image',
        'image_size': side,
        'channels': z,
        'monitor': 'val/loss_simple_ema',
        **p,
        'unet_config': {
          'target': 'ldm.modules.diffusionmodules.openaimodel.UNetModel',
          'params': network,
        },
        'first_stage_config': first,
        'cond_stage_config': cond,
      },
    },
    'data': {'target': 'main.DataModuleFromConfig', 'params': {}},
  }


def unet(channels, multipliers, factors, **more) -> dict:
  return {
    'model_channels': channels,
    'channel_mult': list(multipliers),
    'attention_resolutions': list(factors),
    **more,
  }


def cross(width, **more) -> dict:
  return {'use_spatial_transformer': True, 'context_dim': width, **more}


UNCONDITIONAL = '__is_unconditional__'
FACES = unet(224, (1, 2, 3, 4), (8, 4, 2), num_head_channels=32)


def faces() -> dict:
  return diffusion('vq-f4', UNCONDITIONAL, FACES)


def churches() -> dict:
  network = unet(
      192, (1, 2, 2, 4, 4), (1, 2, 4, 8), num_heads=8,
      use_scale_shift_norm=True, resblock_updown=True,
  )  # fmt: skip
  return diffusion(
      'kl-f8', UNCONDITIONAL, network, end=0.0155, loss_type='l1',
      scale_by_std=True, cond_stage_key='image', concat_mode=False,
  )  # fmt: skip


def imagenet_f8() -> dict:
  network = unet(256, (1, 2, 4), (4, 2, 1), num_head_channels=32, **cross(512))
  cond = conditioner('ClassEmbedder', embed_dim=512, key='class_label')
  return diffusion('vq-f8', cond, network, conditioning_key='crossattn')


def imagenet_f4() -> dict:
  network = unet(
    192, (1, 2, 3, 5), (8, 4, 2), num_heads=1, **cross(512, transformer_depth=1)
  )
  cond = conditioner('ClassEmbedder', n_classes=1001, embed_dim=512)
  return diffusion(
    'vq-f4', cond, network, conditioning_key='crossattn', use_ema=False
  )


def text() -> dict:
  network = unet(
    192, (1, 2, 3, 5), (8, 4, 2), num_head_channels=32, **cross(640)
  )
  cond = conditioner('BERTEmbedder', n_embed=640, n_layer=32)
  return diffusion('vq-f4', cond, network, conditioning_key='crossattn')


def text_1b() -> dict:
  network = unet(
      320, (1, 2, 4, 4), (4, 2, 1), num_heads=8, use_checkpoint=True,
      legacy=False, **cross(1280, transformer_depth=1),
  )  # fmt: skip
  return diffusion(
      'kl-f8', conditioner('BERTEmbedder', n_embed=1280, n_layer=32), network,
      0.00085, 0.012, conditioning_key='crossattn', scale_factor=0.18215,
      use_ema=False,
  )  # fmt: skip


def layout() -> dict:
  network = unet(
      128, (1, 2, 3, 4), (8, 4, 2), num_head_channels=32,
      **cross(512, transformer_depth=3),
  )  # fmt: skip
  cond = conditioner(
      'BERTEmbedder', n_embed=512, n_layer=16, vocab_size=8192,
      max_seq_len=92, use_tokenizer=False,
  )  # fmt: skip
  return diffusion(
      'vq-f4', cond, network, end=0.0205, loss_type='l1',
      cond_stage_key='coordinates_bbox', conditioning_key='crossattn',
  )  # fmt: skip


def super_resolution() -> dict:
  network = unet(
    160, (1, 2, 2, 4), (16, 8), in_channels=6, num_head_channels=32
  )
  return diffusion(
      'vq-f4', IDENTITY, network, end=0.0155, cond_stage_key='LR_image',
      concat_mode=True,
  )  # fmt: skip


def inpainting() -> dict:
  network = unet(
      256, (1, 2, 3, 4), (8, 4, 2), in_channels=7, num_heads=8,
      resblock_updown=True,
  )  # fmt: skip
  return diffusion(
      'vq-f4-noattn', '__is_first_stage__', network, end=0.0205,
      loss_type='l1', cond_stage_key='masked_image', concat_mode=True,
  )  # fmt: skip


def semantic(side: int = 64) -> dict:
  network = unet(128, (1, 4, 8), (32, 16, 8), in_channels=6, num_heads=8)
  cond = conditioner(
    'SpatialRescaler', n_stages=2, in_channels=182, out_channels=3
  )
  return diffusion(
      'vq-f4', cond, network, end=0.0205, loss_type='l1', image_size=side,
      cond_stage_key='segmentation', concat_mode=True,
  )  # fmt: skip


def retrieval() -> dict:
  network = unet(
      448, (1, 2, 3, 4), (4, 2, 1), num_head_channels=32, use_checkpoint=True,
      **cross(768, transformer_depth=1),
  )  # fmt: skip
  return diffusion(
      'kl-f16', IDENTITY, network, 0.0015, 0.015, cond_stage_key='nix',
      conditioning_key='crossattn', scale_factor=0.22765929, image_size=48,
  )  # fmt: skip


def stable_diffusion() -> dict:
  """Stable Diffusion 1.x; its names are in no reference file."""
  network = unet(
      320, (1, 2, 4, 4), (4, 2, 1), num_heads=8, use_checkpoint=True,
      legacy=False, **cross(768, transformer_depth=1),
  )  # fmt: skip
  return diffusion(
      'kl-f8', {'target': MODULES + 'FrozenCLIPEmbedder'}, network, 0.00085,
      0.012, conditioning_key='crossattn', scale_factor=0.18215,
      use_ema=False, image_size=64, num_timesteps_cond=1,
      cond_stage_trainable=False, cond_stage_key='txt',
  )  # fmt: skip


def hybrid(content: dict, **params) -> dict:
  """The inpainting model of a model of text."""
  model = content['model']
  model['target'] = 'ldm.models.diffusion.ddpm.LatentInpaintDiffusion'
  model['params'] |= {
    'conditioning_key': 'hybrid', 'finetune_keys': None, **params,
  }  # fmt: skip
  network = model['params']['unet_config']['params']
  network['in_channels'] = 2 * network['out_channels'] + 1
  return content


def stable_diffusion_inpainting() -> dict:
  """Stable Diffusion 1.5's; its names are in no reference file."""
  content = stable_diffusion()
  del content['model']['params']['use_ema']
  return hybrid(content, first_stage_key='jpg')


def text_inpainting() -> dict:
  """None was released: the same with the paper's own text encoder."""
  keys = ['hidden', 'where']
  return hybrid(
      text_1b(), cond_stage_key='caption', concat_keys=keys,
      masked_image_key='hidden', keep_finetune_dims=4,
  )  # fmt: skip


# By the names of the release's files.
CONFIGS = {
  **{
    f'first_stage_{name}': lambda name=name: first_stage_config(name)
    for name in FIRST_STAGES
  },
  'config.latent-diffusion.cin256-v2': imagenet_f4,
  'config.latent-diffusion.txt2img-1p4B-eval': text_1b,
  'config.retrieval-augmented-diffusion.768x768': retrieval,
  'ldm.bsr_sr': super_resolution,
  'ldm.celeba256': faces,
  'ldm.cin256': imagenet_f8,
  'ldm.ffhq256': faces,
  'ldm.inpainting_big': inpainting,
  'ldm.layout2img-openimages256': layout,
  'ldm.lsun_beds256': faces,
  'ldm.lsun_churches256': churches,
  'ldm.semantic_synthesis256': semantic,
  'ldm.semantic_synthesis512': lambda: semantic(128),
  'ldm.text2img256': text,
}
# And what is in none of them.
MORE = {
  'stable_diffusion': stable_diffusion,
  'stable_diffusion_inpainting': stable_diffusion_inpainting,
  'text_inpainting': text_inpainting,
}


def tiny(content: dict, **unet_params) -> dict:
  """The same kind of model, of a few ten thousand parameters."""
  content = copy.deepcopy(content)
  params = content['model']['params']
  first = params.get('first_stage_config', {}).get('params', params)
  dd = first['ddconfig']
  levels = min(len(dd['ch_mult']), 3)
  attention = [r for r in dd['attn_resolutions'] if r >= 256 // 2**levels]
  dd |= {
    'ch': 32, 'ch_mult': [1, 2, 1][:levels], 'num_res_blocks': 1,
    'resolution': 32, 'attn_resolutions': [8] if attention else [],
  }  # fmt: skip
  if 'n_embed' in first:
    first['n_embed'] = 32
  if 'unet_config' not in params:
    return content
  params['image_size'] = 8
  network = params['unet_config']['params']
  network |= {'model_channels': 32, 'num_res_blocks': 1, **unet_params}
  network['channel_mult'] = [1, 2]
  if network.get('num_heads', 1) > 4:
    network['num_heads'] = 4
  if 'num_head_channels' in network:
    network['num_head_channels'] = 16
  if 'context_dim' in network:
    network['context_dim'] = 24
  cond = params['cond_stage_config']
  small = {
    'embed_dim': 24, 'n_embed': 24, 'n_layer': 2, 'vocab_size': 120,
    'n_classes': 11, 'max_seq_len': 9,
  }  # fmt: skip
  if isinstance(cond, dict) and 'params' in cond:
    known = cond['params'].keys() | (
      {'vocab_size', 'max_seq_len'}
      if 'BERT' in cond['target']
      else {'n_classes'}
      if 'Class' in cond['target']
      else set()
    )
    cond['params'] |= {k: v for k, v in small.items() if k in known}
    if 'Rescaler' in cond['target']:
      cond['params']['in_channels'] = 7
  return content
