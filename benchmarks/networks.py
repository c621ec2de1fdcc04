"""The networks that are measured, and the same ones of diffusers.

A peer draws the weights and leaves them in the sides' folder; our side reads
them from there, so that both compute the same function.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.interop import diffusers_names, diffusers_release, names
from ldm_jax.models.unet import UNet
from ldm_jax.nn import backends
from ldm_jax.types import Conditioning

# `unet` is the config's section; latents are [B side side channels].
UNETS: dict[str, dict[str, Any]] = {
  # configs/unconditional_celebahq.py
  'ldm4_274m': dict(
    unet=dict(
      out_channels=3, channels=224, multipliers=(1, 2, 3, 4),
      attention_levels=(1, 2, 3), head_width=32,
    ),
    side=64, context=(0, 0),
  ),
  'sd15_860m': dict(
    unet=dict(
      out_channels=4, channels=320, multipliers=(1, 2, 4, 4),
      attention_levels=(0, 1, 2), num_heads=8, attention='cross',
    ),
    side=64, context=(77, 768),
  ),
  # The same at 2/7 of its width.
  'ldm4_small': dict(
    unet=dict(
      out_channels=3, channels=64, multipliers=(1, 2, 3, 4),
      attention_levels=(1, 2, 3), head_width=32,
    ),
    side=32, context=(0, 0),
  ),
  'text_small': dict(
    unet=dict(
      out_channels=4, channels=96, multipliers=(1, 2, 4, 4),
      attention_levels=(0, 1, 2), num_heads=4, attention='cross',
    ),
    side=32, context=(77, 768),
  ),
  'tiny': dict(
    unet=dict(
      out_channels=3, channels=32, multipliers=(1, 2), attention_levels=(1,),
      num_res_blocks=1, num_heads=2, attention='cross',
    ),
    side=8, context=(5, 16),
  ),
  'tiny_plain': dict(
    unet=dict(
      out_channels=3, channels=32, multipliers=(1, 2), attention_levels=(1,),
      num_res_blocks=1, head_width=16,
    ),
    side=8, context=(0, 0),
  ),
}  # fmt: skip

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def unet(spec: Mapping[str, Any]) -> UNet:
  return UNet(**UNETS[spec['unet']]['unet'], dtype=DTYPES[spec['dtype']])


def inputs(spec: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """z [B h w c], t [B], context [B L D] and its null, noise; from seed 0."""
  about, batch = UNETS[spec['unet']], spec['batch']
  side = spec.get('side') or about['side']
  length, width = about['context']
  length = spec.get('length') or length
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  channels = about['unet']['out_channels']
  found = {
    'z': draw(batch, side, side, channels),
    'noise': draw(batch, side, side, channels),
    't': rng.integers(1000, size=batch).astype(np.int32),
  }
  if width:
    found['context'] = draw(batch, length, width)
    found['null'] = draw(batch, length, width)
  return found


def attention(spec: Mapping[str, Any]) -> dict[str, str]:
  """{'attention': what computes it here, of the first level that has it}."""
  about = UNETS[spec['unet']]
  section = about['unet']
  level = min(section['attention_levels'])
  positions = ((spec.get('side') or about['side']) // 2**level) ** 2
  channels = section['channels'] * section['multipliers'][level]
  heads = section.get('num_heads') or channels // section['head_width']
  shape = (spec['batch'], positions, heads, channels // heads)
  dtype = DTYPES[spec['dtype']]
  chosen, why = backends.choose(backends.here(), jnp.dtype(dtype), shape, shape)
  return {'attention': f'{chosen} at {positions} positions: {why}'}


def conditioning(given: Mapping[str, Any]) -> Conditioning:
  return Conditioning(context=given.get('context'))


def unet_params(spec: Mapping[str, Any], folder: str):
  """The peer's weights if it left some, or random ones of the same shapes."""
  about = UNETS[spec['unet']]
  path = os.path.join(folder, 'unet.safetensors')
  if os.path.exists(path):
    from safetensors.numpy import load_file

    section, context = about['unet'], about['context'][1]
    rows = diffusers_names.unet(section, section['out_channels'], context)
    tensors = diffusers_names.fuse(rows, load_file(path), section)
    params = names.to_ours(rows, tensors)['model']['unet']
    return jax.tree.map(jnp.asarray, params)
  given = inputs({**spec, 'batch': 1})
  shapes = jax.eval_shape(
    unet(spec).init,
    jax.random.key(0),
    given['z'],
    given['t'],
    conditioning(given),
  )['params']
  return random_params(shapes)


def random_params(shapes):
  """Weights of these shapes that keep signals about as large as they come."""
  rng = np.random.default_rng(0)

  def draw(shape):
    x = rng.standard_normal(shape.shape, np.float32)
    return jnp.asarray(x / max(np.prod(shape.shape[:-1]), 1) ** 0.5)

  return jax.tree.map(draw, shapes)


def torch_unet(spec: Mapping[str, Any], folder: str):
  """diffusers' U-Net, whose weights it leaves in the folder."""
  import torch
  from safetensors.torch import save_file

  model = fresh_torch_unet(spec)
  save_file(
    {k: v.contiguous() for k, v in model.state_dict().items()},
    os.path.join(folder, 'unet.safetensors'),
  )
  if spec['dtype'] != 'float32':
    model = model.to(getattr(torch, spec['dtype']))
  return model.to(torch_device())


def fresh_torch_unet(spec: Mapping[str, Any]):
  import diffusers
  import torch

  about = UNETS[spec['unet']]
  section, context = about['unet'], about['context'][1]
  side = spec.get('side') or about['side']
  config = diffusers_release.unet(
    section, section['out_channels'], context, side
  )
  torch.manual_seed(0)
  kind = getattr(diffusers, config['_class_name'])
  return kind.from_config(config).eval()


def torch_device() -> str:
  import torch

  return 'cuda' if torch.cuda.is_available() else 'cpu'


def torch_inputs(spec: Mapping[str, Any]) -> dict[str, Any]:
  """`inputs` as torch has them: NCHW, channels last in memory."""
  import torch

  def place(key, x):
    x = torch.from_numpy(x).to(torch_device())
    if x.ndim == 4:
      x = x.permute(0, 3, 1, 2)  # NHWC's strides are channels_last's.
    return x.to(getattr(torch, spec['dtype'])) if key != 't' else x

  return {k: place(k, x) for k, x in inputs(spec).items()}
