"""The files inside a folder of components: JSON, weights, tokenizers."""

import json
import os
import re
from typing import Any

import numpy as np

from ldm_jax.data import tokenize
from ldm_jax.interop import files
from ldm_jax.types import UserError

_LARGEST_JSON = 2**26  # Bytes; a tokenizer of 50,000 words has four million.
_WEIGHTS = ('diffusion_pytorch_model', 'model', 'pytorch_model')
_ENDINGS = ('safetensors', 'bin')
_PART = re.compile(r'-\d+-of-\d+\.')
Special = tuple[int, int, int]


def read_bytes(path: str) -> bytes:
  """A small file.

  Raises:
    UserError: it cannot be read, or is too large to be what it should be.
  """
  try:
    with open(path, 'rb') as f:
      content = f.read(_LARGEST_JSON + 1)
  except OSError as error:
    raise UserError(f'{path}: {error.strerror}.') from error
  if len(content) > _LARGEST_JSON:
    raise UserError(f'{path} is over {_LARGEST_JSON:,} bytes.')
  return content


def read_json(path: str) -> Any:
  """A JSON file's content; UserError where it is not that."""
  try:
    return json.loads(read_bytes(path))
  except (ValueError, RecursionError) as error:
    raise UserError(f'{path} is not valid JSON: {error}.') from error


def read_weights(folder: str, legacy: bool = False) -> dict[str, np.ndarray]:
  """A component's tensors, from one file or from several with an index.

  Variants (fp16, non_ema) are read where there is nothing else.

  Raises:
    UserError: there are none, or parts of them without their index.
  """
  there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
  kinds = [(stem, ending) for stem in _WEIGHTS for ending in _ENDINGS]
  for variant in ('', r'\.[\w-]+'):
    for stem, ending in kinds:
      for name in there:
        index = rf'{stem}\.{ending}\.index{variant}\.json'
        if re.fullmatch(index, name):
          return _read_shards(folder, name, legacy)
        whole = re.fullmatch(rf'{stem}{variant}\.{ending}', name)
        if whole and not _PART.search(name):
          return files.read_tensors(os.path.join(folder, name), legacy)
  if parts := [name for name in there if _PART.search(name)]:
    raise UserError(
      f'{folder} holds parts ({parts[0]}) and not the index that says which '
      'belong together (....index.json).'
    )
  raise UserError(
    f'{folder} holds no weights ({_WEIGHTS[0]}.safetensors, '
    f'{_WEIGHTS[1]}.safetensors, or .bin).'
  )


def _read_shards(
  folder: str, index: str, legacy: bool
) -> dict[str, np.ndarray]:
  place = os.path.join(folder, index)
  content = read_json(place)
  shards = content.get('weight_map') if isinstance(content, dict) else None
  if not isinstance(shards, dict) or not shards:
    raise UserError(f'{place} lists no files (weight_map).')
  tensors = {}
  for name in sorted({str(shard) for shard in shards.values()}):
    if os.path.basename(name) != name:
      raise UserError(f'{place} names {name!r}, which is not in its folder.')
    tensors |= files.read_tensors(os.path.join(folder, name), legacy)
  return tensors


def word_pieces(folder: str) -> tuple[Special | None, dict[str, bytes]]:
  """(ids of [CLS], [SEP] and [PAD], {'vocab.txt': ...}) of a BERT tokenizer.

  (None, {}) where the folder has none.
  """
  vocabulary = os.path.join(folder, 'vocab.txt')
  whole = os.path.join(folder, 'tokenizer.json')
  if os.path.isfile(vocabulary):
    content = read_bytes(vocabulary)
    words = content.decode('utf-8', 'replace').rstrip('\n').split('\n')
  elif os.path.isfile(whole):
    words = _words(whole)
    content = ('\n'.join(words) + '\n').encode()
  else:
    return None, {}
  ids = {word.rstrip('\r'): i for i, word in enumerate(words)}
  special = tuple(ids.get(word, -1) for word in ('[CLS]', '[SEP]', '[PAD]'))
  if -1 in special:
    raise UserError(f'{folder}: its vocabulary lacks [CLS], [SEP] or [PAD].')
  return special, {'vocab.txt': content}


def byte_pairs(folder: str, size: int) -> tuple[Special, dict[str, bytes]]:
  """(ids of start, end and padding, the files) of a CLIP tokenizer.

  Without files, the ids are those of CLIP: the last of `size`. With them, those
  that prompts will get (`tokenize.ClipPieces`); UserError where they are none.
  """
  places = {n: os.path.join(folder, n) for n in tokenize.CLIP_FILES}
  contents = {n: read_bytes(p) for n, p in places.items() if os.path.isfile(p)}
  if not contents:
    return (size - 2, size - 1, size - 1), {}
  return tokenize.ClipPieces(folder).special_tokens, contents


def _vocabulary(path: str) -> dict[str, int]:
  """Word -> id of a tokenizer.json."""
  content = read_json(path)
  model = content.get('model') if isinstance(content, dict) else None
  vocabulary = model.get('vocab') if isinstance(model, dict) else None
  if not isinstance(vocabulary, dict) or any(
    type(i) is not int for i in vocabulary.values()
  ):
    raise UserError(f'{path} holds no vocabulary (model.vocab).')
  return vocabulary


def _words(path: str) -> list[str]:
  """The vocabulary of a tokenizer.json, in the order of the ids."""
  vocabulary = _vocabulary(path)
  words = sorted(vocabulary, key=vocabulary.get)
  if [vocabulary[word] for word in words] != list(range(len(words))):
    raise UserError(f'{path}: the ids of its words have gaps.')
  return words
