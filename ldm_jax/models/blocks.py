"""What the U-Net and the classifier, which is half of one, are built of."""

import functools
from typing import Any

import flax.linen as nn

from ldm_jax.nn.attention import AttentionBlock
from ldm_jax.nn.layers import Conv, Downsample, ResBlock, Upsample
from ldm_jax.nn.transformer import SpatialTransformer
from ldm_jax.types import Array, UserError


class Blocks:
  """Blocks of a network's fields, made inside its compact method.

  Args:
    net: the module; its fields are as UNet's.
    temb: the time embedding [B E].
    context: [B L D] for transformers, or None.
    train: whether dropout is on.
  """

  def __init__(self, net: nn.Module, temb: Array, context, train: bool):
    remat = functools.partial(nn.remat, static_argnums=(3,))
    wrap = remat if net.remat else lambda module: module
    self.net, self.temb, self.context, self.train = net, temb, context, train
    self._res_block = wrap(ResBlock)
    self._transformer = wrap(SpatialTransformer)
    self._shared = {'norm_groups': net.norm_groups, 'dtype': net.dtype}

  def res(
    self, x: Array, width: int, name: str, resample: str | None = None
  ) -> Array:
    block = self._res_block(
      width,
      self.net.dropout,
      self.net.scale_shift_norm,
      resample,
      name=name,
      **self._shared,
    )
    return block(x, self.temb, self.train)

  def attend(self, x: Array, name: str) -> Array:
    net = self.net
    heads = net.num_heads or x.shape[-1] // net.head_width
    shared = {**self._shared, 'name': name}
    if net.attention == 'self':
      return AttentionBlock(heads, backend=net.attention_backend, **shared)(x)
    return self._transformer(
      heads,
      net.transformer_depth,
      attention_backend=net.attention_backend,
      **shared,
    )(x, self.context, self.train)

  def block(self, x: Array, level: int, name: str) -> Array:
    x = self.res(x, self.net.channels * self.net.multipliers[level], name)
    if level in self.net.attention_levels:
      x = self.attend(x, f'{name}_attn')
    return x

  def down(self, x: Array, name: str) -> Array:
    if self.net.resblock_updown:
      return self.res(x, x.shape[-1], name, 'down')
    return Downsample(dtype=self.net.dtype, name=name)(x)

  def up(self, x: Array, name: str) -> Array:
    if self.net.resblock_updown:
      return self.res(x, x.shape[-1], name, 'up')
    return Upsample(dtype=self.net.dtype, name=name)(x)

  def encode(self, x: Array) -> tuple[Array, list[Array]]:
    """The first half and the middle: (its result, what skips over it)."""
    net = self.net
    x = Conv(net.channels, dtype=net.dtype, name='conv_in')(x)
    skips = [x]
    last = len(net.multipliers) - 1
    for level in range(last + 1):
      for i in range(net.num_res_blocks):
        x = self.block(x, level, f'down_{level}_block_{i}')
        skips.append(x)
      if level < last:
        x = self.down(x, f'down_{level}_downsample')
        skips.append(x)
    x = self.res(x, x.shape[-1], 'mid_block_0')
    x = self.attend(x, 'mid_attn')
    return self.res(x, x.shape[-1], 'mid_block_1'), skips


def check(section: str, net: Any) -> None:
  """Raises UserError for fields, of this config's section, that cannot be."""
  if (net.head_width is None) == (net.num_heads is None):
    raise UserError(
      f'{section}: set exactly one of head_width and num_heads; got '
      f'head_width={net.head_width}, num_heads={net.num_heads}.'
    )
  attends = {*net.attention_levels, len(net.multipliers) - 1}  # The middle too.
  for level, multiplier in enumerate(net.multipliers):
    width = net.channels * multiplier
    heads = (net.head_width or net.num_heads) if level in attends else 1
    if width % net.norm_groups or width % heads:
      raise UserError(
        f'{section}: level {level} has {width} channels, which '
        f'norm_groups={net.norm_groups} and the attention heads '
        f'({heads}) must divide.'
      )
  outside = [i for i in net.attention_levels if i >= len(net.multipliers)]
  if outside:
    raise UserError(
      f'{section}.attention_levels={net.attention_levels} names level '
      f'{outside[0]}; multipliers give levels 0 to '
      f'{len(net.multipliers) - 1}.'
    )
