"""Stored images with boxes: what COCO and OpenImages have in common."""

import dataclasses
import logging
import os
from collections.abc import Iterable, Sequence

import numpy as np

from ldm_jax.data import images
from ldm_jax.data.folder import SPLITS, is_held_out
from ldm_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Filter:
  """Which boxes and images are used: by the boxes' share of the image's area,
  then by how many boxes are left.
  """

  min_area: float = 0.0
  min_boxes: int = 0
  max_boxes: int = 10**9


class Boxed:
  """Images by index, with `boxes` and `box_labels`.

  Attributes:
    what: what a person calls the dataset.
    files: paths, one for each image.
    boxes: float32 [M 4], x0 y0 x1 y1 in [0, 1], of all images in turn.
    labels: int32 [M].
    starts: int64 [len(files) + 1]: where each image's boxes begin.
    classes: the names behind the labels.
  """

  def __init__(self, what, files, boxes, labels, starts, classes):
    self.what, self.files, self.classes = what, files, classes
    self.boxes, self.box_labels, self.starts = boxes, labels, starts

  def __len__(self) -> int:
    return len(self.files)

  def __repr__(self) -> str:
    return self.what

  def name(self, index: int) -> str:
    return self.files[index]

  def __getitem__(self, index: int) -> dict:
    own = slice(self.starts[index], self.starts[index + 1])
    return {
      'image': images.read(self.files[index]),
      'boxes': self.boxes[own],
      'box_labels': self.box_labels[own],
    }


def collect(
  what: str,
  files: Sequence[str],
  owners: np.ndarray,
  boxes: np.ndarray,
  labels: np.ndarray,
  classes: Sequence[str],
  rule: Filter,
) -> Boxed:
  """Puts boxes in order, filters, and raises UserError where none is left.

  Args:
    what: what a person calls the dataset.
    files: paths of the images; '' where one is not stored.
    owners: int [M], the image of each box.
    boxes: float [M 4], x0 y0 x1 y1 in units of the image; cut at its border.
    labels: int [M].
    classes: names of the labels.
    rule: what is kept.
  """
  boxes = np.asarray(boxes, np.float32).reshape(-1, 4).clip(0, 1)
  owners, labels = np.asarray(owners, np.int64), np.asarray(labels, np.int32)
  sides = boxes[:, 2:] - boxes[:, :2]
  kept = (sides > 0).all(1) & (sides.prod(1) >= rule.min_area)
  owners, boxes, labels = owners[kept], boxes[kept], labels[kept]
  counts = np.bincount(owners, minlength=len(files))
  stored = np.array([bool(file) for file in files], bool)
  fit = (counts >= rule.min_boxes) & (counts <= rule.max_boxes)
  chosen = np.flatnonzero(fit & stored)
  logging.info(
    '%s: %d of %d images; %d are not stored, %d have other than %d to %d'
    ' boxes.',
    what, len(chosen), len(files), (~stored).sum(), (~fit).sum(),
    rule.min_boxes, rule.max_boxes,
  )  # fmt: skip
  if not len(chosen):
    raise UserError(
      f'{what} has no images to use: of {len(files)} that are annotated,'
      f' {stored.sum()} are stored and {fit.sum()} have {rule.min_boxes} to'
      f' {rule.max_boxes} boxes.'
    )
  order = np.argsort(owners, kind='stable')
  order = order[np.isin(owners[order], chosen)]
  starts = np.concatenate([[0], np.cumsum(counts[chosen])])
  return Boxed(
    what,
    [files[i] for i in chosen],
    boxes[order],
    labels[order],
    starts,
    list(classes),
  )


def aliases(split: str) -> tuple[str, ...]:
  """The names that a split's files and folders may have."""
  return SPLITS.get(split, (split,))


def hold_out(
  files: Sequence[str], names: Iterable[str], share: float, is_train: bool
) -> list[str]:
  """The files of one side; '' takes the others' places."""
  if not share:
    if not is_train:
      logging.warning(
        'No images are held out (data.holdout=0): evaluation uses those of '
        'training.'
      )
    return list(files)
  return [
    file if is_held_out(name, share) != is_train else ''
    for file, name in zip(files, names)
  ]


def locate(
  names: Sequence[str], folders: Iterable[str], what: str
) -> list[str]:
  """Paths of the named files in whichever folder has most; '' where missing.

  Raises:
    UserError: no folder has any, or a name leads out of its folder.
  """
  for name in names:
    normal = os.path.normpath(name)
    if os.path.isabs(name) or normal.split(os.sep)[0] == os.pardir:
      raise UserError(f'{what} names {name!r}, which lies outside the folder.')
  tried = []
  best: set[str] = set()
  home = ''
  for folder in dict.fromkeys(map(os.path.normpath, folders)):
    if os.path.isdir(folder):
      tried.append(folder)
      stored = _inside(folder, {os.path.dirname(name) for name in names})
      found = stored.intersection(map(os.path.normpath, names))
      if len(found) > len(best):
        home, best = folder, found
  if names and not best:
    raise UserError(
      f'None of the images of {what}, such as {names[0]!r}, is in'
      f' {", ".join(tried) or "a folder beside it"}.'
    )
  return [
    os.path.join(home, normal) if normal in best else ''
    for normal in map(os.path.normpath, names)
  ]


def _inside(folder: str, below: set[str]) -> set[str]:
  """Names of files in a folder's given subfolders, with them."""
  found = set()
  for part in below:
    where = os.path.join(folder, part)
    if os.path.isdir(where):
      found |= {
        os.path.normpath(os.path.join(part, n)) for n in os.listdir(where)
      }
  return found
