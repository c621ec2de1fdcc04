"""What tasks that read tokens share."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.nn.transformer import TokenTransformer
from ldm_jax.types import Batch, Conditioning


class TokenConditioner(nn.Module):
  """tokens [B L] -> context [B L width], by a transformer trained with it all.

  A task's conditioner adds its null, and its own defaults.
  """

  width: int
  depth: int
  vocab_size: int
  length: int
  num_heads: int = 8
  head_width: int = 64
  dropout: float = 0.0
  attention_backend: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, batch: Batch, encode, train: bool) -> Conditioning:
    del encode
    transformer = TokenTransformer(
      self.vocab_size,
      self.length,
      self.width,
      self.depth,
      self.num_heads,
      self.head_width,
      self.dropout,
      self.attention_backend,
      self.dtype,
      name='transformer',
    )
    return Conditioning(context=transformer(batch['tokens'], train))


def with_empty_prompt(batch: Batch, special_tokens: Sequence[int]) -> Batch:
  """The batch with tokens [B L] of '': start, end, and padding."""
  start, end, pad = special_tokens
  length = batch['tokens'].shape[-1]
  empty = jnp.asarray([start, end, *[pad] * (length - 2)], jnp.int32)
  return {**batch, 'tokens': jnp.broadcast_to(empty, batch['tokens'].shape)}
