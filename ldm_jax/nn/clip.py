"""CLIP's text encoder (Radford et al. 2021), as Stable Diffusion 1.x has it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.nn.attention import MultiHeadAttention
from ldm_jax.nn.layers import Dense, Dtype, LayerNorm
from ldm_jax.nn.transformer import gelu
from ldm_jax.types import Array


def quick_gelu(x: Array) -> Array:
  """x sigmoid(1.702 x): OpenAI's weights were trained with this one."""
  return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {'quick_gelu': quick_gelu, 'gelu': gelu}


class CLIPTextTransformer(nn.Module):
  """tokens [B L] -> the last hidden states [B L width], after the last norm.

  Learned absolute positions; each layer is causal attention, then a plain
  feed-forward 4x wide (`ffn_width` if set), both after a LayerNorm.
  """

  vocab_size: int
  length: int
  width: int
  depth: int
  num_heads: int
  ffn_width: int = 0
  activation: str = 'quick_gelu'
  attention_backend: str | None = None
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array) -> Array:
    if tokens.shape[1] > self.length:
      raise ValueError(
        f'{tokens.shape[1]} tokens; this encoder reads {self.length}'
      )
    table = lambda name, rows, std: nn.Embed(
      rows,
      self.width,
      embedding_init=nn.initializers.normal(std),
      dtype=self.dtype,
      name=name,
    )
    positions = jnp.arange(tokens.shape[1])
    x = table('tokens', self.vocab_size, 0.02)(tokens)
    x = x + table('positions', self.length, 0.01)(positions)
    dense = lambda features, name: Dense(features, dtype=self.dtype, name=name)
    activate = ACTIVATIONS[self.activation]
    for i in range(self.depth):
      layer = f'layer_{i}'
      norm = lambda name, layer=layer: LayerNorm(
        dtype=self.dtype, name=f'{layer}_{name}'
      )
      attention = MultiHeadAttention(
        self.num_heads,
        self.width // self.num_heads,
        self.attention_backend,
        self.dtype,
        qkv_bias=True,
        causal=True,
        name=f'{layer}_attn',
      )
      x = x + attention(norm('norm1')(x))
      h = dense(self.ffn_width or 4 * self.width, f'{layer}_fc1')(
        norm('norm2')(x)
      )
      x = x + dense(self.width, f'{layer}_fc2')(activate(h))
    return LayerNorm(dtype=self.dtype, name='norm')(x)
