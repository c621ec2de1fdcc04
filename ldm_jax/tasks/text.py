"""Text to image: a transformer on BERT word pieces (Sec. 4.3.1, Table 17)."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldm_jax.data.tokenize import WordPieces
from ldm_jax.nn.transformer import TokenTransformer
from ldm_jax.types import Batch, Conditioning, UserError


@dataclasses.dataclass(frozen=True)
class Prepare:
  """Keeps the image and its caption's tokens; one of several captions.

  `vocab_file` is a local BERT vocabulary; 'scenes' is the one shipped here.
  Without one, tokens are accepted where strings would be.
  """

  vocab_size: int = 30522
  length: int = 77
  vocab_file: str = ''
  special_tokens: tuple[int, int, int] = (101, 102, 0)

  latent_is_enough = True  # of the image
  needs = ('text',)

  @functools.cached_property
  def tokenize(self) -> WordPieces:
    if not self.vocab_file:
      raise UserError(
        'This run has no tokenizer, so it takes token ids and no strings; '
        'set task.vocab_file to a BERT vocab.txt to use strings.'
      )
    words = WordPieces(self.vocab_file, self.length)
    # JAX would read the last row for what is beyond the table.
    if words.vocab_size > self.vocab_size:
      raise UserError(
        f'task.vocab_size={self.vocab_size} is too small for the '
        f'{words.vocab_size} words of task.vocab_file={self.vocab_file!r}.'
      )
    return words

  def __call__(self, example: dict, rng: np.random.Generator) -> dict:
    text = example['text']
    if not isinstance(text, str):
      text = text[rng.integers(len(text))]
    return {'image': example['image'], 'tokens': self.tokenize(text)}

  def arrays(self, inputs: dict) -> dict:
    """text (strings) or tokens [B L] -> tokens [B L] int32."""
    if 'tokens' in inputs:
      tokens = np.asarray(inputs['tokens'], np.int32)
      outside = tokens[(tokens < 0) | (tokens >= self.vocab_size)]
      if tokens.shape[-1] > self.length or outside.size:
        raise UserError(
          f'tokens {tokens.shape} must be at most {self.length} long with '
          f'ids 0 to {self.vocab_size - 1}.'
        )
      return {'tokens': tokens}
    if 'text' not in inputs:
      raise UserError('This run draws from text: give a prompt or tokens.')
    return {'tokens': self.tokenize(inputs['text'])}

  def blank(self, size: int) -> dict:
    del size
    return {'tokens': np.zeros(self.length, np.int32)}


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

  def null(self, batch: Batch) -> Batch:
    start, end, pad = self.special_tokens
    length = batch['tokens'].shape[-1]
    empty = jnp.asarray([start, end, *[pad] * (length - 2)], jnp.int32)
    return {**batch, 'tokens': jnp.broadcast_to(empty, batch['tokens'].shape)}
