"""Text to token ids: BERT's and CLIP's tokenizers from local files.

The paper's text encoder reads BERT's 30,522 word pieces, padded and truncated
to 77 (App. E.2.1); `scenes` comes with a vocabulary of its own few words.
Stable Diffusion 1.x reads CLIP's 49,408 byte pairs, 77 of them too.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.types import UserError

SCENES_VOCAB = pathlib.Path(__file__).with_name('scenes_vocab.txt')
SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')


class WordPieces:
  """Turns a string into int32 ids [length], a list into [B length].

  The ids are [CLS], the word pieces of the lower-cased text, [SEP], then [PAD];
  a long text loses its end, never its [SEP]. Instances can be pickled.

  Args:
    vocab_file: BERT's vocab.txt, one token per line, or 'scenes' for the
      vocabulary that is shipped. UserError where it cannot be read.
    length: ids per text, [CLS] and [SEP] included.
  """

  def __init__(self, vocab_file: str | os.PathLike | None, length: int = 77):
    if length < 2:
      raise UserError(
        f'Texts of length={length} tokens; [CLS] and [SEP] alone need 2.'
      )
    self.vocab_file, self.length = vocab_file, length
    self.vocab = _read_vocab(vocab_file)
    # Only the Rust core is kept: workers unpickle it without transformers,
    # whose import takes seconds and, where it is installed, loads torch.
    self._tokenizer = _fast_bert(self.vocab)
    self._tokenizer.enable_truncation(length)
    self._tokenizer.enable_padding(
      length=length, pad_id=self.vocab['[PAD]'], pad_token='[PAD]'
    )

  @property
  def vocab_size(self) -> int:
    """Rows that an embedding of these ids needs."""
    return max(self.vocab.values()) + 1

  def __call__(self, text: str | Sequence[str]) -> np.ndarray:
    if isinstance(text, str):
      return np.array(self._tokenizer.encode(text).ids, np.int32)
    encodings = self._tokenizer.encode_batch([str(line) for line in text])
    ids = np.array([encoding.ids for encoding in encodings], np.int32)
    return ids.reshape(-1, self.length)  # also for no text at all

  def empty(self) -> np.ndarray:
    """The ids [length] of the empty prompt: [CLS] [SEP] [PAD]..."""
    return self('')

  def unknown(self, text: str) -> list[str]:
    """The words of a text that the vocabulary cannot spell."""
    encoding = self._tokenizer.encode(text)
    unk = self.vocab['[UNK]']
    return [
      text[start:end]
      for token, (start, end) in zip(
        encoding.ids, encoding.offsets, strict=True
      )
      if token == unk
    ]


class ClipPieces:
  """Turns a string into int32 ids [length], a list into [B length].

  The ids are the start, the byte pairs of the lower-cased text, the end, then
  the padding, which is the end again in CLIP's own files; a long text loses
  its end, never the end mark. Instances can be pickled.

  Args:
    folder: holds vocab.json and merges.txt, or a tokenizer.json, as a model's
      `tokenizer` folder does. UserError where it cannot be read.
    length: ids per text, start and end included.
  """

  def __init__(self, folder: str | os.PathLike, length: int = 77):
    if length < 2:
      raise UserError(
        f'Texts of length={length} tokens; start and end alone need 2.'
      )
    self.folder, self.length = folder, length
    self._tokenizer, self.special_tokens = _fast_clip(pathlib.Path(folder))
    self._tokenizer.enable_truncation(length)
    pad = self.special_tokens[2]
    self._tokenizer.enable_padding(
      length=length, pad_id=pad, pad_token=self._tokenizer.id_to_token(pad)
    )

  @property
  def vocab_size(self) -> int:
    """Rows that an embedding of these ids needs."""
    return self._tokenizer.get_vocab_size()

  def __call__(self, text: str | Sequence[str]) -> np.ndarray:
    if isinstance(text, str):
      return np.array(self._tokenizer.encode(text).ids, np.int32)
    encodings = self._tokenizer.encode_batch([str(line) for line in text])
    ids = np.array([encoding.ids for encoding in encodings], np.int32)
    return ids.reshape(-1, self.length)

  def empty(self) -> np.ndarray:
    """The ids [length] of the empty prompt."""
    return self('')


# What a folder of CLIP's tokenizer may hold.
CLIP_FILES = (
    'vocab.json', 'merges.txt', 'added_tokens.json', 'tokenizer.json',
    'tokenizer_config.json', 'special_tokens_map.json',
)  # fmt: skip


def files_of(task: Mapping[str, Any]) -> dict[str, bytes]:
  """The tokenizer's files of a text task's config section, by name.

  Empty where the task has none; UserError where they cannot be read.
  """
  vocab_file = task.get('vocab_file')
  if not vocab_file:
    return {}
  path = SCENES_VOCAB if vocab_file == 'scenes' else pathlib.Path(vocab_file)
  try:
    if not path.is_dir():  # CLIP's are several, in a folder.
      return {'vocab.txt': path.read_bytes()}
    there = [name for name in CLIP_FILES if (path / name).is_file()]
    return {name: (path / name).read_bytes() for name in there}
  except OSError as error:
    raise UserError(
      f'task.vocab_file={vocab_file}: {error.strerror}.'
    ) from error


def _fast_clip(folder: pathlib.Path):
  """(`tokenizers.Tokenizer`, the ids of start, end and padding)."""
  pair = folder / 'vocab.json', folder / 'merges.txt'
  if not all(f.is_file() for f in pair):
    if not (folder / 'tokenizer.json').is_file():
      raise UserError(
        f'{folder} holds no CLIP tokenizer: it should have vocab.json and '
        'merges.txt, or tokenizer.json.'
      )
  os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
  from transformers import CLIPTokenizer

  try:
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
  except Exception as error:  # The Rust core raises bare Exceptions.
    raise UserError(
      f'{folder} holds a CLIP tokenizer that cannot be read: {error}.'
    ) from error
  special = (
    tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id,
  )  # fmt: skip
  return tokenizer.backend_tokenizer, special


def _read_vocab(vocab_file: str | os.PathLike | None) -> dict[str, int]:
  """Token to id, which is its line number."""
  if not vocab_file:
    raise UserError(
      'A text task needs a vocabulary: set config.task.vocab_file to a BERT'
      " vocab.txt on this machine, or to 'scenes' for the shipped one."
    )
  path = SCENES_VOCAB if vocab_file == 'scenes' else pathlib.Path(vocab_file)
  try:
    # Not splitlines, to which U+2028 and others are line breaks too.
    lines = path.read_text(encoding='utf-8').rstrip('\n').split('\n')
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f'Cannot read the vocabulary {path}: {error}. It should be a BERT'
      " vocab.txt (one token per line), or 'scenes' for the shipped one."
    ) from error
  vocab = {token: line for line, token in enumerate(lines)}
  if missing := [token for token in SPECIAL if token not in vocab]:
    raise UserError(
      f'The vocabulary {path} lacks {", ".join(missing)}; a BERT vocab.txt'
      ' has one token per line, these among them.'
    )
  return vocab


def _fast_bert(vocab: dict[str, int]):
  """The `tokenizers.Tokenizer` inside transformers' fast BERT tokenizer."""
  # Without it, transformers 5 announces at import that torch is not there.
  os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
  from transformers import BertTokenizerFast

  # transformers 5 takes `vocab`; it ignores a `vocab_file` without a word and
  # then knows the five special tokens alone.
  tokenizer = BertTokenizerFast(vocab=vocab, do_lower_case=True)
  return tokenizer.backend_tokenizer
