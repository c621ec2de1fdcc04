"""The denoising U-Net."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.nn.attention import AttentionBlock
from ldm_jax.nn.embeddings import MLP, timestep_embedding
from ldm_jax.nn.layers import (
  Conv,
  Downsample,
  Dtype,
  GroupNorm,
  ResBlock,
  Upsample,
)
from ldm_jax.nn.transformer import SpatialTransformer
from ldm_jax.types import Array, Conditioning, UserError


class UNet(nn.Module):
  """eps_theta(z_t, t, cond), Sec. 3.3 and App. E.

  Level i works at 1 / 2**i of the latent's resolution; attention is listed by
  level. The middle block always attends. Exactly one of `head_width` (heads
  follow the channels) and `num_heads` (their width does) is set.
  """

  out_channels: int
  channels: int
  multipliers: tuple[int, ...]
  attention_levels: tuple[int, ...]
  num_res_blocks: int = 2
  head_width: int | None = None
  num_heads: int | None = None
  attention: str = 'self'  # or 'cross': spatial transformers reading a context
  transformer_depth: int = 1
  scale_shift_norm: bool = False
  resblock_updown: bool = False
  dropout: float = 0.0
  norm_groups: int = 32
  remat: bool = False
  attention_backend: str | None = None
  dtype: Dtype = jnp.float32

  def check(self) -> None:
    """Raises UserError for settings that no U-Net can have."""
    if (self.head_width is None) == (self.num_heads is None):
      raise UserError(
        'unet: set exactly one of head_width and num_heads; got '
        f'head_width={self.head_width}, num_heads={self.num_heads}.'
      )
    if self.attention not in ('self', 'cross'):
      raise UserError(
        f"unet.attention={self.attention!r}; allowed: 'self', 'cross'."
      )
    for level, multiplier in enumerate(self.multipliers):
      width = self.channels * multiplier
      divisor = self.head_width or self.num_heads
      if width % self.norm_groups or width % divisor:
        raise UserError(
          f'unet: level {level} has {width} channels, which '
          f'norm_groups={self.norm_groups} and the attention heads '
          f'({divisor}) must divide.'
        )
    outside = [i for i in self.attention_levels if i >= len(self.multipliers)]
    if outside:
      raise UserError(
        f'unet.attention_levels={self.attention_levels} names level '
        f'{outside[0]}; multipliers give levels 0 to '
        f'{len(self.multipliers) - 1}.'
      )

  @nn.compact
  def __call__(
    self, z: Array, t: Array, cond: Conditioning, train: bool = False
  ) -> Array:
    """z [B h w c], t [B] -> [B h w out_channels], float32."""
    self.check()
    remat = functools.partial(nn.remat, static_argnums=(3,))
    res_block = remat(ResBlock) if self.remat else ResBlock
    transformer = (
      remat(SpatialTransformer) if self.remat else SpatialTransformer
    )
    shared = {'norm_groups': self.norm_groups, 'dtype': self.dtype}

    temb = timestep_embedding(t, self.channels).astype(self.dtype)
    temb = MLP(4 * self.channels, self.dtype, name='time')(temb)  # [B E]
    if cond.vector is not None:
      temb += MLP(4 * self.channels, self.dtype, name='vector')(cond.vector)

    def res(x, width, name, resample=None):
      block = res_block(
        width,
        self.dropout,
        self.scale_shift_norm,
        resample,
        name=name,
        **shared,
      )
      return block(x, temb, train)

    def attend(x, name):
      heads = self.num_heads or x.shape[-1] // self.head_width
      shared_here = {**shared, 'name': name}
      if self.attention == 'self':
        return AttentionBlock(
          heads, backend=self.attention_backend, **shared_here
        )(x)
      return transformer(
        heads,
        self.transformer_depth,
        attention_backend=self.attention_backend,
        **shared_here,
      )(x, cond.context, train)

    def block(x, level, name):
      x = res(x, self.channels * self.multipliers[level], name)
      if level in self.attention_levels:
        x = attend(x, f'{name}_attn')
      return x

    def down(x, name):
      if self.resblock_updown:
        return res(x, x.shape[-1], name, 'down')
      return Downsample(dtype=self.dtype, name=name)(x)

    def up(x, name):
      if self.resblock_updown:
        return res(x, x.shape[-1], name, 'up')
      return Upsample(dtype=self.dtype, name=name)(x)

    x = z if cond.concat is None else join(z, cond.concat)
    x = Conv(self.channels, dtype=self.dtype, name='conv_in')(x)
    skips = [x]
    last = len(self.multipliers) - 1

    for level in range(last + 1):
      for i in range(self.num_res_blocks):
        x = block(x, level, f'down_{level}_block_{i}')
        skips.append(x)
      if level < last:
        x = down(x, f'down_{level}_downsample')
        skips.append(x)

    x = res(x, x.shape[-1], 'mid_block_0')
    x = attend(x, 'mid_attn')
    x = res(x, x.shape[-1], 'mid_block_1')

    for level in reversed(range(last + 1)):
      for i in range(self.num_res_blocks + 1):
        x = jnp.concatenate([x, skips.pop()], axis=-1)
        x = block(x, level, f'up_{level}_block_{i}')
      if level > 0:
        x = up(x, f'up_{level}_upsample')
    assert not skips

    norm = GroupNorm(self.norm_groups, dtype=self.dtype, name='norm_out')
    x = nn.silu(norm(x))
    x = Conv(
      self.out_channels,
      kernel_init=nn.initializers.zeros,
      dtype=self.dtype,
      name='conv_out',
    )(x)
    return x.astype(jnp.float32)


def join(z: Array, concat: Array) -> Array:
  """z_t [B h w c] and the condition [B h w k] -> [B h w c + k]."""
  if z.shape[:3] != concat.shape[:3]:
    (h, w), (concat_h, concat_w) = z.shape[1:3], concat.shape[1:3]
    raise UserError(
      f'The condition is {concat_h}x{concat_w} for a latent of {h}x{w}, which'
      ' it is joined to; they must be the same. Look at task and '
      'first_stage.multipliers.'
    )
  return jnp.concatenate([z, concat], -1)
