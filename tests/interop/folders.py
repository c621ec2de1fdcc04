"""Small runs of every kind that diffusers has a pipeline for, in memory."""

import copy

import numpy as np

from ldm_jax.interop import clip_names, diffusers_names, names
from ldm_jax.interop.compvis_names import context_width, in_channels

KL = dict(
  name='kl', z_channels=4, embed_dim=4, channels=8, multipliers=(1, 2),
  num_res_blocks=1, attention_levels=(1,), norm_groups=4, in_channels=3,
  out_channels=3, mid_attention=True,
)  # fmt: skip
VQ = KL | dict(
  name='vq', z_channels=3, embed_dim=2, num_codes=11, attention_levels=()
)
UNET = dict(
  out_channels=4, channels=8, multipliers=(1, 2), attention_levels=(1,),
  num_res_blocks=1, num_heads=2, attention='cross', transformer_depth=2,
  norm_groups=4, dropout=0.0, scale_shift_norm=False, resblock_updown=False,
)  # fmt: skip
PLAIN = UNET | dict(
  attention='self', out_channels=2, transformer_depth=1, head_width=4,
  num_heads=None, attention_levels=(0, 1),
)  # fmt: skip
TEXT = dict(
  name='text', width=6, depth=1, vocab_size=9, length=7, num_heads=2,
  head_width=5, special_tokens=(2, 3, 0),
)  # fmt: skip
CLIP = dict(
  name='clip_text', width=6, depth=2, vocab_size=518, length=8, num_heads=2,
  ffn_width=10, activation='gelu', special_tokens=(516, 517, 517),
)  # fmt: skip


INPAINTING = CLIP | dict(
  name='inpainting_clip_text', hole=0.0, mask_low=0.0, mask_first=True
)


def _config(task, first_stage, unet, **more):
  return {
    'stage': 'diffusion',
    'first_stage': first_stage,
    'unet': {k: v for k, v in unet.items() if v is not None},
    'task': task,
    'schedule': dict(kind='linear', num_timesteps=1000, start=0.0015,
                     end=0.0195),
    'loss': dict(prediction='eps'),
    'sampling': dict(sampler='ddim', spacing='leading'),
    'data': dict(size=16),
    **more,
  }  # fmt: skip


def configs() -> dict[str, dict]:
  """By pipeline; fresh copies."""
  released = dict(sampler='plms', spacing='offset')
  return copy.deepcopy({
    'LDMTextToImagePipeline': _config(TEXT, KL, UNET),
    'LDMPipeline': _config(dict(name='unconditional'), VQ, PLAIN),
    'LDMSuperResolutionPipeline': _config(
      dict(name='super_resolution', factor=2), VQ, PLAIN
    ),
    'StableDiffusionPipeline': _config(CLIP, KL, UNET, sampling=released),
    'StableDiffusionInpaintPipeline': _config(INPAINTING, KL, UNET),
  })  # fmt: skip


def random_items(config: dict, seed: int = 0) -> dict:
  """Trees of normal numbers for all that a config's networks need."""
  rng = np.random.default_rng(seed)
  rows = diffusers_names.first_stage(config['first_stage'])
  if 'unet' in config:
    rows += diffusers_names.unet(
      config['unet'], in_channels(config), context_width(config)
    )
    if config['task']['name'] == 'text':
      rows += diffusers_names.text(config['task'])
    if config['task']['name'].endswith('clip_text'):
      rows += clip_names.text_encoder(config['task'])
  draw = lambda row: rng.standard_normal(row.shape, np.float32)
  items = names.to_ours(rows, {row.theirs: draw(row) for row in rows})
  if 'unet' in config:
    items['ema'] = items['model']['unet']
  return items


def flat(tree: dict) -> dict[str, np.ndarray]:
  return names.flatten(tree)


def assert_same(one: dict, other: dict) -> None:
  """Bitwise, name by name."""
  one, other = flat(one), flat(other)
  assert one.keys() == other.keys()
  for name, x in one.items():
    np.testing.assert_array_equal(x, other[name], err_msg=name)
