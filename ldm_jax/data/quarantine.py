"""Images that cannot be used: named, counted, replaced, and never hidden."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator

from ldm_jax.types import UserError

# The key under which bad images travel from the workers with a batch.
KEY = '_bad'
# A source in which so many replacements in a row fail is beyond repair.
_ATTEMPTS = 16


def candidates(index: int, length: int) -> Iterator[int]:
  """`index`, then its replacements in order: a pure function of the index."""
  yield index
  for attempt in range(1, _ATTEMPTS):
    digest = hashlib.blake2b(f'{index} {attempt}'.encode(), digest_size=8)
    yield int.from_bytes(digest.digest(), 'big') % length


def too_many(bad: int, read: int, share: float, whole: bool) -> bool:
  """Whether `bad` of `read` images exceed the allowed share.

  Where not the `whole` source was read, chance is allowed for: four standard
  deviations and three images.
  """
  expected = share * read
  slack = 0.0 if whole or not share else 4 * math.sqrt(expected) + 3
  return bad > expected + slack


def pack(values: list[list[tuple[int, str, str]]]) -> str:
  """Bad images of a batch as one string, which any process can pass on."""
  found = [bad for value in values for bad in value]
  return json.dumps(found) if found else ''


class Quarantine:
  """Counts bad images, logs each once, and stops a run that has too many.

  Args:
    length: examples in the source.
    share: the part of them that may be bad.
    folder: gets `quarantine.jsonl` with {"example_id", "path", "reason"};
      '' writes none.
    process_index: process 0 writes that name, others `quarantine-<index>`.
  """

  def __init__(
    self, length: int, share: float, folder: str = '', process_index: int = 0
  ):
    self.length, self.share = length, share
    self.num_read = self.num_bad = 0
    self._known = set()
    self._file, self._written = '', set()
    if folder:
      name = f'quarantine-{process_index}' if process_index else 'quarantine'
      self._file = os.path.join(folder, f'{name}.jsonl')
      self._written = _read_lines(self._file)

  def observe(self, packed: str, num_read: int) -> None:
    """Takes note of a batch; raises UserError when too many were bad."""
    self.num_read += num_read
    if not packed:
      return
    found = json.loads(packed)
    self.num_bad += len(found)
    for index, path, reason in found:
      if index not in self._known:
        self._known.add(index)
        self._record(index, path, reason)
    certain = too_many(len(self._known), self.length, self.share, whole=True)
    likely = too_many(self.num_bad, self.num_read, self.share, whole=False)
    if certain or likely:
      raise UserError(
        f'{len(self._known)} images cannot be used, over the {self.share:.1%}'
        f' of data.max_bad ({self.num_bad} of the {self.num_read} read). The'
        f' last: {path}: {reason}'
      )

  def _record(self, index: int, path: str, reason: str) -> None:
    logging.warning('Bad image replaced: %s: %s', path, reason)
    line = json.dumps({'example_id': index, 'path': path, 'reason': reason})
    if not self._file or line in self._written:
      return
    os.makedirs(os.path.dirname(self._file), exist_ok=True)
    with open(self._file, 'a', encoding='utf-8') as file:
      file.write(line + '\n')


def _read_lines(path: str) -> set[str]:
  """What an earlier part of the same run wrote."""
  if not os.path.exists(path):
    return set()
  with open(path, encoding='utf-8') as file:
    return set(file.read().splitlines())
