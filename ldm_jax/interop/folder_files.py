"""The files inside a folder of components: JSON, weights, tokenizers."""

import json
import os
from typing import Any

import numpy as np

from ldm_jax.interop import files
from ldm_jax.types import UserError

_LARGEST_JSON = 2**26  # Bytes; a tokenizer of 50,000 words has four million.
_WEIGHTS = ('diffusion_pytorch_model', 'model', 'pytorch_model')
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
  """A component's tensors, from one file or from several with an index."""
  there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
  for stem in _WEIGHTS:
    for ending in ('safetensors', 'bin'):
      index = f'{stem}.{ending}.index.json'
      if index in there:
        return _read_shards(folder, index, legacy)
      # Variants (fp16, ema) where there is nothing else.
      found = [n for n in sorted(there) if n.startswith(f'{stem}.')
               and n.endswith(f'.{ending}')]  # fmt: skip
      if found:
        name = f'{stem}.{ending}'
        path = name if name in found else found[0]
        return files.read_tensors(os.path.join(folder, path), legacy)
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

  Without files, the ids are those of CLIP: the last of `size`.
  """
  kept = ('vocab.json', 'merges.txt', 'tokenizer.json',
          'tokenizer_config.json', 'special_tokens_map.json')  # fmt: skip
  there = [n for n in kept if os.path.isfile(os.path.join(folder, n))]
  ids, pad = {}, '<|endoftext|>'
  if 'vocab.json' in there:
    ids = read_json(os.path.join(folder, 'vocab.json'))
  elif 'tokenizer.json' in there:
    ids = _vocabulary(os.path.join(folder, 'tokenizer.json'))
  if 'tokenizer_config.json' in there:
    settings = read_json(os.path.join(folder, 'tokenizer_config.json'))
    pad = settings.get('pad_token') or pad
    if isinstance(pad, dict):  # An added token, with its content.
      pad = pad.get('content')
  start = ids.get('<|startoftext|>', size - 2)
  end = ids.get('<|endoftext|>', size - 1)
  contents = {n: read_bytes(os.path.join(folder, n)) for n in there}
  return (start, end, ids.get(pad, end)), contents


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
