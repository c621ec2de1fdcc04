"""Text to image: a transformer on BERT word pieces (Sec. 4.3.1, Table 17)."""

import dataclasses
import functools

import numpy as np

from ldm_jax.data import inputs
from ldm_jax.data.tokenize import WordPieces
from ldm_jax.tasks import tokens
from ldm_jax.types import Batch, UserError


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
        'set task.vocab_file to a BERT vocab.txt to use strings, or import '
        'again with convert.py import --tokenizer=FOLDER.'
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

  def arrays(self, given: dict) -> dict:
    """text (strings) or tokens [(B) L] -> tokens [(B) L] int32."""
    if 'tokens' in given:
      found = inputs.tokens(given['tokens'], self.length, self.vocab_size)
      return {'tokens': found}
    if 'text' not in given:
      raise UserError('This run draws from text: give a prompt or tokens.')
    return {'tokens': self.tokenize(given['text'])}

  def blank(self, size: int) -> dict:
    del size
    return {'tokens': np.zeros(self.length, np.int32)}


class Text(tokens.TokenConditioner):
  """tokens [B L] -> context [B L width]; the null is the empty prompt.

  `special_tokens` are the ids of [CLS], [SEP] and [PAD] in the vocabulary.
  """

  vocab_size: int = 30522
  length: int = 77
  special_tokens: tuple[int, int, int] = (101, 102, 0)

  def null(self, batch: Batch) -> Batch:
    return tokens.with_empty_prompt(batch, self.special_tokens)
