"""Our U-Net against diffusers' two, on the same random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

from ldm_jax.interop import diffusers_names  # noqa: E402
from ldm_jax.models.unet import UNet  # noqa: E402
from ldm_jax.types import Conditioning  # noqa: E402
from tests.parity import oracles  # noqa: E402

pytestmark = pytest.mark.parity

SIZE, LENGTH, WIDTH = 8, 5, 24
T = np.array([0, 731])

# With one channel to a group, whatever a bias adds before a norm is taken away
# again: its gradient is rounding alone, and nothing to compare.
BASE = dict(
  out_channels=3, channels=32, multipliers=(1, 2), attention_levels=(1,),
  num_res_blocks=1, norm_groups=8,
)  # fmt: skip
SELF = {
  'plain': dict(BASE, head_width=16),
  'attention everywhere, one head': dict(
    BASE, num_heads=1, attention_levels=(0, 1), num_res_blocks=2
  ),
  'scale-shift, residual up and down': dict(
    BASE, head_width=32, scale_shift_norm=True, resblock_updown=True
  ),
}
CROSS = {
  'heads by width': dict(BASE, head_width=16, attention='cross'),
  'two heads, depth 2': dict(
    BASE, num_heads=2, attention='cross', transformer_depth=2,
    attention_levels=(0, 1), num_res_blocks=2,
  ),
}  # fmt: skip


def plain_unet(config, in_channels=3):
  attention = config['attention_levels']
  levels = range(len(config['multipliers']))
  resample = 'Resnet{}sampleBlock2D' if config.get('resblock_updown') else None
  kind = lambda side, level: (
    f'Attn{side}Block2D'
    if level in attention
    else (resample.format(side) if resample else f'{side}Block2D')
  )
  scale_shift = config.get('scale_shift_norm', False)
  return diffusers.UNet2DModel(
    sample_size=SIZE,
    in_channels=in_channels,
    out_channels=config['out_channels'],
    down_block_types=tuple(kind('Down', i) for i in levels),
    up_block_types=tuple(kind('Up', i) for i in reversed(levels)),
    block_out_channels=tuple(
      config['channels'] * m for m in config['multipliers']
    ),
    layers_per_block=config['num_res_blocks'],
    norm_num_groups=config['norm_groups'],
    attention_head_dim=config.get('head_width'),
    downsample_type='resnet' if resample else 'conv',
    upsample_type='resnet' if resample else 'conv',
    resnet_time_scale_shift='scale_shift' if scale_shift else 'default',
    attn_norm_num_groups=config['norm_groups'] if scale_shift else None,
  )


def conditional_unet(config):
  attention = config['attention_levels']
  levels = range(len(config['multipliers']))
  widths = tuple(config['channels'] * m for m in config['multipliers'])
  kind = lambda side, level: (
    f'CrossAttn{side}Block2D' if level in attention else f'{side}Block2D'
  )
  return diffusers.UNet2DConditionModel(
    sample_size=SIZE,
    in_channels=3,
    out_channels=config['out_channels'],
    down_block_types=tuple(kind('Down', i) for i in levels),
    up_block_types=tuple(kind('Up', i) for i in reversed(levels)),
    block_out_channels=widths,
    layers_per_block=config['num_res_blocks'],
    norm_num_groups=config['norm_groups'],
    cross_attention_dim=WIDTH,
    transformer_layers_per_block=config.get('transformer_depth', 1),
    # Theirs is called a width and is a number of heads.
    attention_head_dim=tuple(
      config.get('num_heads') or width // config['head_width']
      for width in widths
    ),
  )


def inputs(channels=3):
  rng = np.random.default_rng(0)
  z = rng.normal(size=(2, SIZE, SIZE, channels)).astype(np.float32)
  context = rng.normal(size=(2, LENGTH, WIDTH)).astype(np.float32)
  direction = rng.normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)
  return z, context, direction


def compare(config, theirs, context):
  """Forward and gradients of one U-Net in both places."""
  z, _, direction = inputs()
  rows = diffusers_names.unet(config, 3, WIDTH)
  to_ours = lambda tensors: oracles.to_ours(rows, tensors, config)['model'][
    'unet'
  ]
  params = to_ours(theirs.state_dict())

  def ours(params, z, context):
    cond = Conditioning(context=context)
    eps = UNet(**config).apply({'params': params}, z, jnp.asarray(T), cond)
    return jnp.sum(eps * direction), eps

  keywords = {}
  theirs_z = oracles.nchw(z).requires_grad_()
  if context is not None:
    keywords['encoder_hidden_states'] = torch.tensor(
      context, requires_grad=True
    )
  expected = theirs(theirs_z, torch.tensor(T), **keywords).sample
  (expected * oracles.nchw(direction)).sum().backward()

  wanted = (0, 1) if context is None else (0, 1, 2)
  compute = jax.jit(jax.grad(ours, wanted, has_aux=True))
  grads, eps = compute(params, z, context)
  assert oracles.error(eps, oracles.nhwc(expected)) <= 1e-4
  assert oracles.error(grads[1], oracles.nhwc(theirs_z.grad)) <= 1e-3
  if context is not None:
    there = keywords['encoder_hidden_states'].grad
    assert oracles.error(grads[2], there) <= 1e-3
  expected = to_ours(oracles.gradients(theirs))
  oracles.assert_gradients_close(grads[0], expected, 1e-3)


@pytest.mark.parametrize('name', SELF)
def test_self_attention_unet(name):
  theirs = oracles.randomise(plain_unet(SELF[name]))
  compare(SELF[name], theirs, None)


@pytest.mark.parametrize('name', CROSS)
def test_cross_attention_unet(name):
  theirs = oracles.randomise(conditional_unet(CROSS[name]))
  compare(CROSS[name], theirs, inputs()[1])


def test_channels_joined_to_the_latent():
  config = SELF['plain'] | {'norm_groups': 32}  # the default
  theirs = oracles.randomise(plain_unet(config, in_channels=6))
  z, _, _ = inputs(6)
  rows = diffusers_names.unet(config, 6, 0)
  params = oracles.to_ours(rows, theirs.state_dict(), config)['model']['unet']
  cond = Conditioning(concat=jnp.asarray(z[..., 3:]))
  eps = UNet(**config).apply({'params': params}, z[..., :3], T, cond)
  with torch.no_grad():
    expected = theirs(oracles.nchw(z), torch.tensor(T)).sample
  assert oracles.error(eps, oracles.nhwc(expected)) <= 1e-4
