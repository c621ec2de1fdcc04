"""Images with boxes, as OpenImages' CSV files tell them.

  PATH/oidv6-train-annotations-bbox.csv   PATH/class-descriptions-boxable.csv
  PATH/train/ImageID.jpg                  (or PATH/images/train, .../train/data)

Classes are numbered as the descriptions list them.
"""

import array
import csv
import glob
import os

import numpy as np

from ldm_jax.data import boxed
from ldm_jax.data.folder import check_folder
from ldm_jax.types import UserError

# As taming's public configs of layouts; they keep groups, though.
RULE = boxed.Filter(min_area=1e-4, min_boxes=2, max_boxes=30)

_COLUMNS = ('ImageID', 'LabelName', 'XMin', 'YMin', 'XMax', 'YMax')


def open_openimages(
  path: str, split: str, *, rule: boxed.Filter = RULE
) -> boxed.Boxed:
  """The images and boxes of a split below `path`; raises UserError."""
  root = check_folder(path)
  table = _find(
    root,
    [f'*{a}*bbox*.csv' for a in boxed.aliases(split)]
    + [f'{a}/labels/detections.csv' for a in boxed.aliases(split)],
    f'boxes of the split {split!r}, such as {split}-annotations-bbox.csv',
  )
  descriptions = _find(
    root,
    ['*class-descriptions*.csv', '*classes*.csv'],
    'names of classes, such as class-descriptions-boxable.csv',
  )
  classes = _read_classes(descriptions)
  number = {name: i for i, (name, _) in enumerate(classes)}
  ids, owners, boxes, labels = _read_boxes(table, number, descriptions)
  what = f'openimages {os.path.relpath(table, root)}'
  folders = [
    os.path.join(base, name, data)
    for name in (*boxed.aliases(split), '')
    for base in (root, os.path.join(root, 'images'))
    for data in ('', 'data')
  ]
  files = boxed.locate([f'{name}.jpg' for name in ids], folders, what)
  names = [name for _, name in classes]
  return boxed.collect(what, files, owners, boxes, labels, names, rule)


def _find(root: str, patterns: list[str], what: str) -> str:
  for pattern in patterns:
    for where in ('', 'annotations', 'metadata', '*/metadata'):
      found = glob.glob(os.path.join(glob.escape(root), where, pattern))
      if found:
        return min(found, key=len)
  raise UserError(f'{root} has no {what}.')


def _read_classes(file: str) -> list[tuple[str, str]]:
  """(id, name) of every class."""
  with open(file, encoding='utf-8', newline='') as stream:
    rows = [row for row in csv.reader(stream) if len(row) >= 2]
  if rows and rows[0][0] == 'LabelName':
    rows = rows[1:]
  if not rows:
    raise UserError(f'{file} names no classes: it should have "id,name" rows.')
  return [(row[0], row[1]) for row in rows]


def _read_boxes(file: str, number: dict[str, int], descriptions: str):
  """(image ids, owners [M], boxes [M 4], labels [M]); groups are left out."""
  order: dict[str, int] = {}
  owners, labels, corners = array.array('q'), array.array('i'), array.array('f')
  with open(file, encoding='utf-8', newline='') as stream:
    rows = csv.reader(stream)
    header = next(rows, [])
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
      raise UserError(
        f'{file} has no column {missing[0]!r}; it has {", ".join(header)}.'
      )
    image, label, *where = (header.index(name) for name in _COLUMNS)
    group = header.index('IsGroupOf') if 'IsGroupOf' in header else None
    for line, row in enumerate(rows, 2):
      if len(row) != len(header):
        raise UserError(
          f'{file} line {line} has {len(row)} columns; the first has'
          f' {len(header)}.'
        )
      if group is not None and row[group] == '1':
        continue
      try:
        labels.append(number[row[label]])
        corners.extend(float(row[i]) for i in where)
      except KeyError as error:
        raise UserError(
          f'{file} line {line}: the class {error} is not in {descriptions}.'
        ) from error
      except ValueError as error:
        raise UserError(f'{file} line {line}: {error}.') from error
      owners.append(order.setdefault(row[image], len(order)))
  boxes = np.array(corners, np.float32).reshape(-1, 4)
  return list(order), np.array(owners), boxes, np.array(labels)
