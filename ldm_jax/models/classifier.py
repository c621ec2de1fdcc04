"""A classifier of noisy latents: the first half of a U-Net, and a pooling.

Dhariwal & Nichol 2021, App. E; the poolings are those that the release names.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.models import blocks
from ldm_jax.nn.attention import attend, merge_heads, split_heads
from ldm_jax.nn.embeddings import MLP, timestep_embedding
from ldm_jax.nn.layers import Dense, Dtype, GroupNorm
from ldm_jax.types import Array, UserError

POOLS = ('adaptive', 'attention', 'spatial', 'spatial_v2')


class NoisyClassifier(nn.Module):
  """log p(y | z_t, t): z_t [B h w c], t [B] -> logits [B num_classes].

  `pool`: 'adaptive' takes the mean of the middle's positions; 'attention' lets
  that mean ask all positions, which have embeddings, so the latent's size is
  fixed; 'spatial' and 'spatial_v2' take the means of every block, and a hidden
  layer. All other fields are UNet's.
  """

  num_classes: int
  channels: int
  multipliers: tuple[int, ...]
  attention_levels: tuple[int, ...]
  num_res_blocks: int = 2
  head_width: int | None = None
  num_heads: int | None = None
  pool: str = 'attention'
  hidden: int = 2048  # of the spatial poolings
  scale_shift_norm: bool = False
  resblock_updown: bool = False
  dropout: float = 0.0
  norm_groups: int = 32
  remat: bool = False
  attention_backend: str | None = None
  dtype: Dtype = jnp.float32

  # What Blocks asks of a U-Net besides.
  attention: ClassVar[str] = 'self'

  def check(self) -> None:
    """Raises UserError for settings that no classifier can have."""
    if self.pool not in POOLS:
      raise UserError(
        f'classifier.pool={self.pool!r}; allowed: {", ".join(POOLS)}.'
      )
    if self.num_classes < 2:
      raise UserError(
        f'classifier.num_classes={self.num_classes} must be 2 or more.'
      )
    blocks.check('classifier', self)

  @nn.compact
  def __call__(self, z: Array, t: Array, train: bool = False) -> Array:
    self.check()
    temb = timestep_embedding(t, self.channels).astype(self.dtype)
    temb = MLP(4 * self.channels, self.dtype, name='time')(temb)  # [B E]
    x, skips = blocks.Blocks(self, temb, None, train).encode(z)
    if self.pool in ('adaptive', 'attention'):
      norm = GroupNorm(self.norm_groups, dtype=self.dtype, name='norm_out')
      x = nn.silu(norm(x))
    x = x.astype(jnp.float32)
    if self.pool == 'adaptive':
      x = jnp.mean(x, (1, 2))
    elif self.pool == 'attention':
      heads = self.num_heads or x.shape[-1] // self.head_width
      x = AttentionPool(heads, self.attention_backend, name='pool')(x)
    else:
      means = [jnp.mean(h.astype(jnp.float32), (1, 2)) for h in [*skips, x]]
      x = Dense(self.hidden, name='hidden')(jnp.concatenate(means, -1))
      if self.pool == 'spatial':
        x = nn.relu(x)
      else:
        x = nn.silu(GroupNorm(self.norm_groups, name='norm_hidden')(x))
    # Zero-initialised: at first all classes are as likely.
    return Dense(
      self.num_classes, kernel_init=nn.initializers.zeros, name='out'
    )(x)


class AttentionPool(nn.Module):
  """x [B h w C] -> [B C]: its mean, as a token of its own, asks all tokens.

  Raises:
    UserError: another h x w than its embeddings of positions are for.
  """

  num_heads: int
  backend: str | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    b, h, w, c = x.shape
    known = self.get_variable('params', 'positions')
    if known is not None and len(known) != h * w + 1:
      raise UserError(
        f"The classifier's pool 'attention' knows latents of one size: "
        f'{len(known) - 1} positions at its lowest level, and here are {h}x{w}.'
        ' Draw at the size that it was trained at, or train one with '
        '--config.classifier.pool=adaptive, which takes any.'
      )
    x = x.reshape(b, h * w, c)
    x = jnp.concatenate([jnp.mean(x, 1, keepdims=True), x], 1)
    x = x + self.param(
      'positions', nn.initializers.normal(c**-0.5), (h * w + 1, c)
    )
    q, k, v = jnp.split(Dense(3 * c, name='qkv')(x), 3, axis=-1)
    q, k, v = (split_heads(y, self.num_heads) for y in (q[:, :1], k, v))
    return merge_heads(attend(q, k, v, self.backend))[:, 0]
