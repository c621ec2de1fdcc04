"""Which images of a set can be used: read once, before anything is drawn.

  CACHE/<digest>.usable.json   {"read": 5000, "bad": [17, 4021], "why": "..."}

Beside the statistics of references, so that a set is looked through once.
"""

import dataclasses
import json
import pathlib

import numpy as np
from absl import logging

from ldm_jax import whole
from ldm_jax.data import quarantine
from ldm_jax.evaluation.image_sets import ImageSet, Unusable
from ldm_jax.types import UserError

# Images between two looks at how many were bad.
_AT_ONCE = 64


@dataclasses.dataclass
class _Seen:
  """Of the first `read` images: which are bad, and why the first of them is."""

  read: int = 0
  bad: list[int] = dataclasses.field(default_factory=list)
  why: str = ''


def usable(
  images: ImageSet, num: int, share: float | None, cache: str, say=print
) -> ImageSet:
  """The first `num` images that can be used; those between are left out.

  Args:
    images: of which some may be damaged, or too small.
    num: at most so many.
    share: the part of them that may be bad; None where none may.
    cache: folder that keeps which they are.
    say: is told that they are read.

  Raises:
    UserError: too many are bad, or all.
  """
  digest = images.digest()
  path = pathlib.Path(cache) / f'{digest[:32]}.usable.json'
  seen = _load(path)
  if seen.read < images.count and seen.read - len(seen.bad) < num:
    say(f'Reading {images.name}, once, to know which images can be used.')
    _look_on(images, num, share, seen)
    _store(path, seen)
  _check(images, share, seen)
  kept = np.setdiff1d(np.arange(seen.read), seen.bad)[:num]
  if not kept.size:
    raise UserError(f'{images.name} has no image of use. {seen.why}')
  every = seen.read == images.count and kept.size + len(seen.bad) == seen.read
  left_out = seen.read - kept.size if every else kept[-1] + 1 - kept.size
  found = dataclasses.replace(
    images,
    count=len(kept),
    read=lambda index: images.read(int(kept[index])),
    # The bad ones follow from the rest of it.
    digest=lambda: digest if every else f'{digest}:{num}',
    left_out=int(left_out),
    why=seen.why if left_out else '',
  )
  if left_out:
    logging.warning(sentence(found))
  return found


def sentence(images: ImageSet) -> str:
  """What a reader must know of a set that lacks images."""
  return (
    f'{images.left_out} of {images.count + images.left_out} images of '
    f'{images.name} cannot be used and are left out. The first: {images.why}'
  )


def _look_on(images: ImageSet, num: int, share: float | None, seen: _Seen):
  """Reads on from where it was left, until `num` images are good."""
  start = seen.read

  def reason(index):
    try:
      images.read(start + index)
    except Unusable as error:
      if share is None:
        raise
      return str(error)
    return ''

  rest = dataclasses.replace(images, count=images.count - start, read=reason)
  for reasons in rest.batches(_AT_ONCE):
    for index, why in enumerate(reasons, seen.read):
      if why:
        seen.why = seen.why or why
        seen.bad.append(index)
    seen.read += len(reasons)
    _check(images, share, seen)
    if seen.read - len(seen.bad) >= num:
      break


def _check(images: ImageSet, share: float | None, seen: _Seen) -> None:
  """Raises UserError where more are bad than may be."""
  whole_set = seen.read == images.count
  bad = len(seen.bad)
  if bad and quarantine.too_many(bad, seen.read, share or 0, whole_set):
    raise UserError(
      f'{bad} of the {seen.read} images read of {images.name} cannot be used'
      + (f', over the {share:.1%} of data.max_bad' if share else '')
      + f': repair or remove them. The first: {seen.why}'
    )


def _load(path: pathlib.Path) -> _Seen:
  try:
    return _Seen(**json.loads(path.read_text()))
  except (OSError, ValueError, TypeError):
    return _Seen()  # Not there, or not whole: read again.


def _store(path: pathlib.Path, seen: _Seen) -> None:
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole.written(path) as partial:
      partial.write_text(json.dumps(dataclasses.asdict(seen)))
  except OSError as error:
    raise UserError(
      f'--cache: {path} cannot be written: {error.strerror}.'
    ) from error
