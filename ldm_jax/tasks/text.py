"""Text to image: a transformer on BERT word pieces (Sec. 4.3.1, Table 17)."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldm_jax.nn.transformer import TokenTransformer
from ldm_jax.types import Batch, Conditioning


def prepare(example: dict, rng: np.random.Generator, tokenize) -> dict:
  """Adds tokens [L] of the example's caption; one of them if it has several."""
  text = example['text']
  if not isinstance(text, str):
    text = text[rng.integers(len(text))]
  return {'image': example['image'], 'tokens': tokenize(text)}


class Text(nn.Module):
  """tokens [B L] -> context [B L width]; the null is the empty prompt.

  `special_tokens` are the ids of [CLS], [SEP] and [PAD] in the vocabulary.
  """

  width: int
  depth: int
  vocab_size: int = 30522
  length: int = 77
  num_heads: int = 8
  head_width: int = 64
  dropout: float = 0.0
  special_tokens: tuple[int, int, int] = (101, 102, 0)
  attention_backend: str | None = None
  dtype: jnp.dtype = jnp.float32

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

  def null(self, batch: Batch) -> Batch:
    start, end, pad = self.special_tokens
    length = batch['tokens'].shape[1]
    empty = jnp.asarray([start, end, *[pad] * (length - 2)], jnp.int32)
    return {**batch, 'tokens': jnp.broadcast_to(empty, batch['tokens'].shape)}
