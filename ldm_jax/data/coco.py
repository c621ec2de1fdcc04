"""Images with boxes, as COCO's `instances.json` tells them.

  PATH/annotations/instances_train2017.json   PATH/train2017/*.jpg

One `instances.json` without a split works too, beside its images or a folder
of them, and so does one of `train` alone; a share of the images is then held
out. Classes are numbered from 0 in the order of their ids.
"""

import glob
import json
import os
import re

import numpy as np

from ldm_jax.data import boxed
from ldm_jax.data.folder import check_folder
from ldm_jax.types import UserError

# As taming's public configs of layouts: nothing too small to see, two objects
# at least, thirty at most.
RULE = boxed.Filter(min_area=1e-5, min_boxes=2, max_boxes=30)


def open_coco(
  path: str,
  split: str,
  *,
  holdout: float = 0.0,
  is_train: bool = True,
  rule: boxed.Filter = RULE,
) -> boxed.Boxed:
  """The images and boxes of a split below `path`; raises UserError."""
  root = check_folder(path)
  file, alone = _find(root, split)
  content = _load(file)
  what = f'coco {os.path.relpath(file, root)}'
  try:
    names = [str(image['file_name']) for image in content['images']]
    sizes = np.array(
      [[image['width'], image['height']] for image in content['images']], float
    ).reshape(-1, 2)
    number = {image['id']: i for i, image in enumerate(content['images'])}
    classes = sorted(content['categories'], key=lambda c: c['id'])
    label = {c['id']: i for i, c in enumerate(classes)}
    class_names = [str(c['name']) for c in classes]
    # A crowd is not an object.
    found = [a for a in content['annotations'] if not a.get('iscrowd')]
    owners = np.array([number[a['image_id']] for a in found], int)
    labels = np.array([label[a['category_id']] for a in found], int)
    boxes = np.array([a['bbox'] for a in found], float).reshape(-1, 4)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise UserError(
      f'{file} is not as COCO has it: {type(error).__name__} {error}.'
    ) from error
  boxes[:, 2:] += boxes[:, :2]  # x y width height -> corners
  boxes /= np.maximum(np.tile(sizes, 2)[owners], 1)
  files = boxed.locate(names, _folders(root, file, split), what)
  if alone:
    files = boxed.hold_out(files, names, holdout, is_train)
  return boxed.collect(what, files, owners, boxes, labels, class_names, rule)


def _find(root: str, split: str) -> tuple[str, bool]:
  """(the annotations' file, whether the other split is to come of it too)."""
  found = sorted(
    file
    for where in ('', '*')
    for file in glob.glob(os.path.join(glob.escape(root), where, '*.json'))
    if 'instances' in os.path.basename(file)
    or os.path.basename(file) == '_annotations.coco.json'
  )
  of_train = _of_split(found, root, 'train')
  if of := _of_split(found, root, split):
    return of[0], found == of_train and len(found) == 1
  single = [f for f in found if os.path.basename(f) == 'instances.json']
  for alone in (single, of_train if found == of_train else []):
    if len(alone) == 1:
      return alone[0], True
  names = ', '.join(os.path.relpath(f, root) for f in found) or 'none'
  raise UserError(
    f'{root} has no COCO annotations for the split {split!r}, such as'
    f' annotations/instances_{split}2017.json; found: {names}.'
  )


def _of_split(files: list[str], root: str, split: str) -> list[str]:
  """Those that name the split, by its first names first."""
  found = []
  for alias in boxed.aliases(split):
    named = re.compile(rf'(^|[_/\\]){re.escape(alias)}\d*($|[_/\\])')
    for file in files:
      if named.search(os.path.relpath(file, root).removesuffix('.json')):
        found.append(file)
  return list(dict.fromkeys(found))


def _load(file: str) -> dict:
  try:
    with open(file, encoding='utf-8') as stream:
      content = json.load(stream)
  except (OSError, ValueError) as error:
    raise UserError(f'{file} cannot be read as JSON: {error}.') from error
  if not isinstance(content, dict):
    raise UserError(f'{file} is not as COCO has it: not an object.')
  return content


def _folders(root: str, file: str, split: str) -> list[str]:
  """Where the images may be."""
  here = os.path.dirname(file)
  stem = os.path.basename(file).removesuffix('.json').removeprefix('instances')
  names = [stem.lstrip('_'), *boxed.aliases(split), '']
  bases = [root, os.path.join(root, 'images'), here]
  bases.append(os.path.join(here, 'images'))
  return [os.path.join(base, name) for name in names for base in bases]
