"""Text to image as Stable Diffusion 1.x has it: CLIP's text encoder, frozen."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.data.tokenize import ClipPieces
from ldm_jax.nn.clip import ACTIVATIONS, CLIPTextTransformer
from ldm_jax.types import Batch, Conditioning, UserError


@dataclasses.dataclass(frozen=True)
class Prepare:
  """Keeps the image and its caption's tokens; one of several captions.

  `tokenizer` is a local folder with CLIP's vocab.json and merges.txt. Without
  one, tokens are accepted where strings would be.
  """

  vocab_size: int = 49408
  length: int = 77
  tokenizer: str = ''

  needs = ('text',)

  @functools.cached_property
  def tokenize(self) -> ClipPieces:
    if not self.tokenizer:
      raise UserError(
        'This run has no tokenizer, so it takes token ids and no strings; '
        "set task.tokenizer to a folder with CLIP's vocab.json and merges.txt."
      )
    return ClipPieces(self.tokenizer, self.length)

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

  def blank(self) -> dict:
    return {'tokens': np.zeros(self.length, np.int32)}


class ClipText(nn.Module):
  """tokens [B L] -> context [B L width]; the null is the empty prompt.

  The defaults are those of the encoder in Stable Diffusion 1.x.
  `special_tokens` are the ids of start, end and padding. A frozen encoder
  passes no gradient.
  """

  width: int = 768
  depth: int = 12
  num_heads: int = 12
  ffn_width: int = 0  # 0: four times the width
  vocab_size: int = 49408
  length: int = 77
  activation: str = 'quick_gelu'
  special_tokens: tuple[int, int, int] = (49406, 49407, 49407)
  frozen: bool = True
  attention_backend: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, batch: Batch, encode, train: bool) -> Conditioning:
    del encode, train
    if self.activation not in ACTIVATIONS:
      raise UserError(
        f'task.activation={self.activation!r}; allowed: '
        f'{", ".join(ACTIVATIONS)}.'
      )
    transformer = CLIPTextTransformer(
      self.vocab_size,
      self.length,
      self.width,
      self.depth,
      self.num_heads,
      self.ffn_width,
      self.activation,
      self.attention_backend,
      self.dtype,
      name='transformer',
    )
    context = transformer(batch['tokens'])
    if self.frozen:
      context = jax.lax.stop_gradient(context)
    return Conditioning(context=context)

  def null(self, batch: Batch) -> Batch:
    start, end, pad = self.special_tokens
    length = batch['tokens'].shape[-1]
    empty = jnp.asarray([start, end, *[pad] * (length - 2)], jnp.int32)
    return {**batch, 'tokens': jnp.broadcast_to(empty, batch['tokens'].shape)}
