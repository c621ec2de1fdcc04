"""Text to image as Stable Diffusion 1.x has it: CLIP's text encoder, frozen."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.data.tokenize import ClipPieces
from ldm_jax.nn.clip import ACTIVATIONS, CLIPTextTransformer
from ldm_jax.tasks import text, tokens
from ldm_jax.types import Batch, Conditioning, UserError


@dataclasses.dataclass(frozen=True)
class Prepare(text.Prepare):
  """As of `text`; `vocab_file` is a folder with vocab.json and merges.txt.

  Strings are padded to `max_length` tokens, where it is set; else to `length`.
  """

  vocab_size: int = 49408
  special_tokens: tuple[int, int, int] = (49406, 49407, 49407)
  max_length: int = 0

  @functools.cached_property
  def tokenize(self) -> ClipPieces:
    if not self.vocab_file:
      raise UserError(
        'This run has no tokenizer, so it takes token ids and no strings; '
        "set task.vocab_file to a folder with CLIP's vocab.json and merges.txt "
        'to use strings, or import again with convert.py import '
        '--tokenizer=FOLDER.'
      )
    return ClipPieces(self.vocab_file, self.max_length or self.length)


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
    return tokens.with_empty_prompt(batch, self.special_tokens)
