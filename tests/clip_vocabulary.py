"""A tiny vocabulary in the form of CLIP's files, for tests."""

import json
import pathlib

# Byte pairs joined, in this order, on top of the 256 bytes.
MERGES = ('r e', 're d</w>', 'c i', 'ci r')
START, END, SIZE = 516, 517, 518


def _byte_names() -> list[str]:
  """GPT-2's printable stand-ins for the 256 bytes."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = range(256, 256 + 256 - len(printable))
  return [chr(code) for code in (*printable, *others)]


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes vocab.json and merges.txt; returns the folder."""
  folder.mkdir(parents=True, exist_ok=True)
  names = _byte_names()
  words = [
    *names,
    *(name + '</w>' for name in names),
    *(merge.replace(' ', '') for merge in MERGES),
    '<|startoftext|>',
    '<|endoftext|>',
  ]
  vocabulary = {word: i for i, word in enumerate(words)}
  (folder / 'vocab.json').write_text(json.dumps(vocabulary))
  lines = ['#version: 0.2', *MERGES]
  (folder / 'merges.txt').write_text('\n'.join(lines) + '\n')
  return folder
