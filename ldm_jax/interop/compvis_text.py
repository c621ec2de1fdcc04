"""What the release's text configs leave to a download, from local files.

BERTEmbedder and FrozenCLIPEmbedder fetch their tokenizers, and the latter its
network's sizes, by name. Here they are looked for beside the checkpoint, and
in whatever folder they are told.
"""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

from ldm_jax.interop import diffusers_config, folder_files, masked_image
from ldm_jax.interop.compvis_config import Read
from ldm_jax.types import UserError

# What of CLIP's config.json shapes don't say; the rest is in the weights.
_CLIP_FIELDS = ('num_heads', 'activation')


def with_local_files(
  read: Read, folders: Iterable[str]
) -> tuple[Read, dict[str, bytes]]:
  """The config with what was found, and a tokenizer's files by path.

  `folders` and their `tokenizer` and `text_encoder` folders are looked into,
  in order; those that do not exist are passed over.

  Raises:
    UserError: a file that was found and cannot be read.
  """
  task = dict(read.config.get('task', {}))
  name = masked_image.encoder_of(task.get('name'))
  if name not in ('text', 'clip_text'):
    return read, {}
  places = [
    place
    for folder in folders
    for place in (folder, *(os.path.join(folder, n) for n in _INSIDE))
    if os.path.isdir(place)
  ]
  notes = list(read.notes)
  if name == 'clip_text':
    task |= _clip_fields(places, task['width'], notes)
  found: dict[str, bytes] = {}
  for place in places:
    special, found = _tokenizer(name, place, task)
    if found:
      task['special_tokens'] = special
      task['vocab_file'] = {
        'text': 'tokenizer/vocab.txt', 'clip_text': 'tokenizer',
      }[name]  # fmt: skip
      break
  else:
    notes.append(
      'There is no tokenizer beside the checkpoint: prompts are given as '
      'tokens, or name one with --tokenizer.'
    )
  found = {f'tokenizer/{k}': v for k, v in found.items()}
  config = {**read.config, 'task': task}
  return dataclasses.replace(read, config=config, notes=notes), found


_SIZES = {'text': 30522, 'clip_text': 49408}
_INSIDE = ('tokenizer', 'text_encoder')


def _tokenizer(name: str, place: str, task: dict[str, Any]):
  size = task.get('vocab_size', _SIZES[name])
  if name == 'text':
    special, found = folder_files.word_pieces(place)
    highest = sum(content.count(b'\n') for content in found.values()) - 1
  else:
    special, found = folder_files.byte_pairs(place, size)
    highest = max(special)
  if highest >= size:
    raise UserError(
      f'The tokenizer in {place} has ids up to {highest}; the text encoder '
      f'knows {size}.'
    )
  return special, found


def _clip_fields(
  places: list[str], width: int, notes: list[str]
) -> dict[str, Any]:
  for place in places:
    path = os.path.join(place, 'config.json')
    if not os.path.isfile(path):
      continue
    values = folder_files.read_json(path)
    if isinstance(values, dict):
      values = values.get('text_config', values)
      if 'num_attention_heads' in values:
        fields = diffusers_config.clip_text(values, path)
        return {key: fields[key] for key in _CLIP_FIELDS}
  if width % 64 == 0:
    notes.append("CLIP's heads are taken to be 64 wide, as OpenAI's are.")
  else:
    notes.append(
      f'CLIP is {width} wide, which is no number of heads that are 64 wide as '
      "OpenAI's are: how many it has is not known, and its vectors are wrong "
      "unless the guess is right. Put CLIP's config.json, which says it in "
      'num_attention_heads, beside the checkpoint.'
    )
  return {}
