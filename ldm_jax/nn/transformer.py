"""Transformers: over the positions of an image, and over tokens."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.nn.attention import MultiHeadAttention
from ldm_jax.nn.layers import Conv, Dense, Dtype, GroupNorm, LayerNorm
from ldm_jax.types import Array


def gelu(x: Array) -> Array:
  """The exact one, x (1 + erf(x / sqrt 2)) / 2, in float32.

  JAX's own approximates by tanh, or takes erfc, which costs twice as much and
  whose digits far from zero the product with x does not show.
  """
  wide = x.astype(jnp.float32)
  y = 0.5 * wide * (1 + jax.lax.erf(wide * math.sqrt(0.5)))
  return y.astype(x.dtype)


class FeedForward(nn.Module):
  """Two layers, 4x wide: x [B N C] -> [B N C].

  Gated: the first half of the projection is the value, the second the gate.
  """

  gated: bool
  dropout: float = 0.0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    c = x.shape[-1]
    width = 4 * c
    h = Dense(
      2 * width if self.gated else width, dtype=self.dtype, name='proj_in'
    )(x)
    if self.gated:
      value, gate = jnp.split(h, 2, axis=-1)
      h = value * gelu(gate)
    else:
      h = gelu(h)
    h = nn.Dropout(self.dropout)(h, deterministic=not train)
    return Dense(c, dtype=self.dtype, name='proj_out')(h)


class TransformerBlock(nn.Module):
  """Self-attention, cross-attention, feed-forward, each after a LayerNorm.

  The order is the release's; the paper's appendix E.2.1 prints another.
  Without a context the second attention looks at x too.
  """

  num_heads: int
  head_width: int
  dropout: float = 0.0
  attention_backend: str | None = None
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, context: Array | None, train: bool = False
  ) -> Array:
    norm = lambda name: LayerNorm(dtype=self.dtype, name=name)
    attention = lambda name: MultiHeadAttention(
      self.num_heads,
      self.head_width,
      self.attention_backend,
      self.dtype,
      name=name,
    )
    x = x + attention('attn1')(norm('norm1')(x))
    x = x + attention('attn2')(norm('norm2')(x), context)
    feed = FeedForward(True, self.dropout, self.dtype, name='feed_forward')
    return x + feed(norm('norm3')(x), train)


class SpatialTransformer(nn.Module):
  """Transformer blocks over the positions of x [B h w c], with a residual."""

  num_heads: int
  depth: int = 1
  dropout: float = 0.0
  norm_groups: int = 32
  attention_backend: str | None = None
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, context: Array | None, train: bool = False
  ) -> Array:
    b, h, w, c = x.shape
    y = GroupNorm(self.norm_groups, 1e-6, self.dtype, name='norm')(x)
    y = Conv(c, 1, dtype=self.dtype, name='proj_in')(y)
    y = y.reshape(b, h * w, c)
    for i in range(self.depth):
      y = TransformerBlock(
        self.num_heads,
        c // self.num_heads,
        self.dropout,
        self.attention_backend,
        self.dtype,
        name=f'block_{i}',
      )(y, context, train)
    y = y.reshape(b, h, w, c)
    y = Conv(
      c,
      1,
      kernel_init=nn.initializers.zeros,
      dtype=self.dtype,
      name='proj_out',
    )(y)
    return x + y


class TokenTransformer(nn.Module):
  """The paper's condition encoder: tokens [B L] -> [B L width] (Table 17).

  Learned absolute positions; each layer is attention, then a plain GELU
  feed-forward, both after a LayerNorm; a last LayerNorm; no mask. The heads'
  width is `head_width`, 64 as released, whatever the model's.
  """

  vocab_size: int
  length: int
  width: int
  depth: int
  num_heads: int = 8
  head_width: int = 64
  dropout: float = 0.0
  attention_backend: str | None = None
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array, train: bool = False) -> Array:
    if tokens.shape[1] > self.length:
      raise ValueError(
        f'{tokens.shape[1]} tokens; this encoder reads {self.length}'
      )
    # The release starts both tables at 0.02, next to which the first layer's
    # outputs, of order 1, leave tokens nearly alike. Tokens at unit scale, and
    # positions not, are told apart by what they are: a small model learns its
    # conditions several times sooner.
    table = lambda name, rows, scale: nn.Embed(
      rows,
      self.width,
      embedding_init=nn.initializers.normal(scale),
      dtype=self.dtype,
      name=name,
    )
    positions = jnp.arange(tokens.shape[1])
    x = table('tokens', self.vocab_size, 1.0)(tokens)
    x = x + table('positions', self.length, 0.02)(positions)
    for i in range(self.depth):
      norm = lambda name, i=i: LayerNorm(
        dtype=self.dtype, name=f'layer_{i}_{name}'
      )
      attention = MultiHeadAttention(
        self.num_heads,
        self.head_width,
        self.attention_backend,
        self.dtype,
        name=f'layer_{i}_attn',
      )
      feed = FeedForward(
        False, self.dropout, self.dtype, name=f'layer_{i}_feed_forward'
      )
      x = x + attention(norm('norm1')(x))
      x = x + feed(norm('norm2')(x), train)
    return LayerNorm(dtype=self.dtype, name='norm')(x)
