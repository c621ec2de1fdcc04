"""The denoising U-Net."""

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.models import blocks
from ldm_jax.nn.embeddings import MLP, timestep_embedding
from ldm_jax.nn.layers import Conv, Dtype, GroupNorm
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
    if self.attention not in ('self', 'cross'):
      raise UserError(
        f"unet.attention={self.attention!r}; allowed: 'self', 'cross'."
      )
    blocks.check('unet', self)

  @nn.compact
  def __call__(
    self, z: Array, t: Array, cond: Conditioning, train: bool = False
  ) -> Array:
    """z [B h w c], t [B] -> [B h w out_channels], float32."""
    self.check()
    temb = timestep_embedding(t, self.channels).astype(self.dtype)
    temb = MLP(4 * self.channels, self.dtype, name='time')(temb)  # [B E]
    if cond.vector is not None:
      temb += MLP(4 * self.channels, self.dtype, name='vector')(cond.vector)

    parts = blocks.Blocks(self, temb, cond.context, train)
    x = z if cond.concat is None else join(z, cond.concat)
    x, skips = parts.encode(x)
    last = len(self.multipliers) - 1
    for level in reversed(range(last + 1)):
      for i in range(self.num_res_blocks + 1):
        x = jnp.concatenate([x, skips.pop()], axis=-1)
        x = parts.block(x, level, f'up_{level}_block_{i}')
      if level > 0:
        x = parts.up(x, f'up_{level}_upsample')
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
