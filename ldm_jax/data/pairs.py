"""Images with a map of classes, or a mask, each in a file of its own.

Found by their names, whatever the order of folders:

  images/train/a.jpg  labels/train/a.png       train/a.jpg  trainannot/a.png
  train/images/a.jpg  train/masks/a.png        a.png  a_mask.png  (no folders)

`palette.txt` (or `label_colors.txt`) at the top, with a line `R G B name` for
each class, says that maps are colours. Classes called void, ignore or
unlabelled are no class: -1.
"""

import logging
import os
import re

import numpy as np

from ldm_jax.data import boxed, images
from ldm_jax.data.folder import SPLITS, check_folder
from ldm_jax.types import UserError

KINDS = ('segmentation', 'mask')
PALETTES = ('palette.txt', 'label_colors.txt')
IGNORED = ('void', 'ignore', 'ignored', 'unlabelled', 'unlabeled')
NOTHING = -1

_MAP_FOLDERS = (
  'annotations', 'annot', 'gtfine', 'gtcoarse', 'label', 'labels', 'maps',
  'mask', 'masks', 'segmentation', 'segmentations', 'segmentationclass',
)  # fmt: skip
_IMAGE_FOLDERS = (
  'image', 'images', 'img', 'imgs', 'jpegimages', 'leftimg8bit', 'photos',
)  # fmt: skip
# Ends of the names of maps (and of images) that pairs do not share.
_MAP_ENDS = re.compile(
  r'(_mask\d*|_seg|_label|_labels|_gtfine_labelids|_gtfine_labeltrainids|_l|_p)$'
)
_IMAGE_ENDS = re.compile(r'(_leftimg8bit)$')


class Pairs:
  """Images by index, each with its `segmentation` or `mask` [H W] int32.

  Attributes:
    files: paths of the images; `maps` of what belongs to them.
    kind: the key: 'segmentation' or 'mask' (bright is 1, to be filled).
    palette: int [n 3] colours of the classes, or None: maps hold indices.
    classes: names behind the palette, or None.
  """

  def __init__(self, root, files, maps, kind, palette=None, classes=None):
    self.root, self.files, self.maps, self.kind = root, files, maps, kind
    self.palette, self.classes = palette, classes

  def __len__(self) -> int:
    return len(self.files)

  def __repr__(self) -> str:
    return f'pairs in {self.root}'

  def name(self, index: int) -> str:
    return self.files[index]

  def __getitem__(self, index: int) -> dict:
    image = images.read(self.files[index])
    file = self.maps[index]
    try:
      found = self._read_map(file)
    except images.BadImage as error:
      raise images.BadImage(f'{file}: {error}') from error
    if found.shape != image.shape[:2]:
      (h, w), (map_h, map_w) = image.shape[:2], found.shape
      raise images.BadImage(
        f'{file} has {map_w}x{map_h} pixels and its image {w}x{h}'
      )
    return {'image': image, self.kind: found}

  def _read_map(self, file: str) -> np.ndarray:
    if self.kind == 'mask':
      return (images.read(file)[..., 0] >= 128).astype(np.int32)
    if self.palette is None:
      return images.read(file, as_map=True)
    return to_classes(images.read(file), self.palette, self.classes)


def to_classes(colours: np.ndarray, palette: np.ndarray, names) -> np.ndarray:
  """uint8 [H W 3] -> classes int32 [H W]; BadImage for an unknown colour."""
  code = lambda rgb: np.asarray(rgb, np.int32) @ np.int32([65536, 256, 1])
  known = code(palette)
  order = np.argsort(known)
  found = code(colours)
  place = np.searchsorted(known[order], found).clip(max=len(known) - 1)
  classes = order[place].astype(np.int32)
  unknown = known[classes] != found
  if unknown.any():
    colour = ' '.join(map(str, colours[unknown][0]))
    raise images.BadImage(
      f'the colour {colour} is none of the {len(known)} in the palette'
    )
  ignored = [i for i, name in enumerate(names) if name.lower() in IGNORED]
  classes[np.isin(classes, ignored)] = NOTHING
  return classes


def find_palette(
  folder: str,
) -> tuple[np.ndarray, list[str]] | tuple[None, None]:
  """`read_palette` of the one in a folder; Nones where there is none."""
  for name in PALETTES:
    if os.path.isfile(os.path.join(folder, name)):
      return read_palette(os.path.join(folder, name))
  return None, None


def read_palette(file: str) -> tuple[np.ndarray, list[str]]:
  """(colours int [n 3], names) of lines `R G B name`; or UserError."""
  colours, names = [], []
  with open(file, encoding='utf-8') as lines:
    for number, line in enumerate(lines, 1):
      words = line.split()
      if not words or line.startswith('#'):
        continue
      try:
        rgb = [int(word) for word in words[:3]]
        if len(rgb) != 3 or not all(0 <= x <= 255 for x in rgb):
          raise ValueError
      except ValueError:
        raise UserError(
          f'{file} line {number} is not "R G B name": {line.strip()!r}.'
        ) from None
      if rgb in colours:
        raise UserError(f'{file} line {number}: that colour is taken.')
      colours.append(rgb)
      names.append(' '.join(words[3:]) or str(len(names)))
  if not names:
    raise UserError(f'{file} names no colours.')
  return np.array(colours), names


def open_pairs(
  path: str,
  split: str,
  kind: str = 'segmentation',
  *,
  holdout: float = 0.0,
  is_train: bool = True,
) -> Pairs:
  """The pairs of a split below `path`; raises UserError.

  Without a folder but for training, `holdout` of the pairs is evaluated on.
  """
  root = check_folder(path)
  found = find(root)
  splits = {key[0] for key in found}
  if splits <= {'', *boxed.aliases('train')}:
    names = [key[1] for key in found]
    kept = boxed.hold_out(names, names, holdout, is_train)
    found = {k: pair for (k, pair), name in zip(found.items(), kept) if name}
  else:
    own = set(boxed.aliases(split))
    if not own & splits:
      raise UserError(
        f'{root} has no pairs for the split {split!r}; it has'
        f' {", ".join(sorted(splits))}. Set data.train_split or'
        ' data.eval_split.'
      )
    found = {key: pair for key, pair in found.items() if key[0] in own}
  if not found:
    raise UserError(f'No pairs of {root} are left with data.holdout={holdout}.')
  pairs = [found[key] for key in sorted(found)]
  files, maps = zip(*pairs)
  colours = find_palette(root) if kind == 'segmentation' else (None, None)
  return Pairs(root, list(files), list(maps), kind, *colours)


def find(root: str) -> dict[tuple[str, str], tuple[str, str]]:
  """(split or '', name) -> (image's path, map's path); raises UserError."""
  sides: tuple[dict, dict] = ({}, {})
  for folder, folders, names in os.walk(root, followlinks=True):
    folders[:] = sorted(f for f in folders if not f.startswith('.'))
    parts = os.path.relpath(folder, root).split(os.sep)
    parts = [] if parts == ['.'] else parts
    for name in sorted(names):
      if name.lower().endswith(images.EXTENSIONS) and name[0] != '.':
        is_map, key = _identify(parts, os.path.splitext(name)[0])
        sides[is_map].setdefault(key, os.path.join(folder, name))
  pictures, maps = sides
  both = {key: (pictures[key], maps[key]) for key in pictures if key in maps}
  if not both:
    raise UserError(
      f'{root} has {len(pictures)} images and {len(maps)} maps or masks, none'
      ' of which belong together by name. Name them images/a.jpg and'
      ' labels/a.png, or a.png and a_mask.png.'
    )
  left = len(pictures) + len(maps) - 2 * len(both)
  if left:
    logging.warning(
      '%d files in %s are in no pair and are left out.', left, root
    )
  return both


def _identify(parts: list[str], stem: str) -> tuple[bool, tuple[str, str]]:
  """(whether it is a map, (split, name that both have))."""
  split, is_map, rest = '', False, []
  known = {name for names in SPLITS.values() for name in names}
  for part in parts:
    lower = part.lower()
    if lower.endswith('annot') and lower.removesuffix('annot') in known:
      is_map, split = True, lower.removesuffix('annot')
    elif lower in known:
      split = lower
    elif lower in _MAP_FOLDERS:
      is_map = True
    elif lower not in _IMAGE_FOLDERS:
      rest.append(part)
  in_folders = is_map
  end = _MAP_ENDS.search(stem.lower())
  if end and (in_folders or end.group().startswith('_mask')):
    is_map, stem = True, stem[: end.start()]
  elif end := _IMAGE_ENDS.search(stem.lower()):
    stem = stem[: end.start()]
  return is_map, (split, '/'.join([*rest, stem]))
