"""The files that a user samples from: layouts, maps, images and masks."""

import json
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ldm_jax.data import images, pairs
from ldm_jax.data.examples import Read, Transform
from ldm_jax.data.spec import DataSpec
from ldm_jax.types import UserError


def layouts(
  path: str, classes: Sequence[str] | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """(boxes [N 4], box_labels [N]) of each layout in a JSON file.

  The file holds {"boxes": [[x0, y0, x1, y1], ...], "labels": [...]}, or a
  list of those. Corners are in [0, 1]; a label is a number, or one of
  `classes`.
  """
  try:
    with open(path, encoding='utf-8') as file:
      content = json.load(file)
  except (OSError, ValueError) as error:
    raise UserError(f'--layout: {path} cannot be read: {error}.') from error
  found = content if isinstance(content, list) else [content]
  boxes, labels = [], []
  for number, one in enumerate(found):
    try:
      corners = np.array(one['boxes'], np.float32).reshape(-1, 4)
      names = list(one['labels'])
    except (KeyError, TypeError, ValueError) as error:
      raise UserError(
        f'--layout: layout {number} of {path} is not {{"boxes": [[x0, y0, x1,'
        ' y1], ...], "labels": [...]}.'
      ) from error
    if len(names) != len(corners):
      raise UserError(
        f'--layout: layout {number} of {path} has {len(corners)} boxes and'
        f' {len(names)} labels.'
      )
    boxes.append(corners)
    labels.append(
      np.array([_label(name, classes, path) for name in names], np.int32)
    )
  if not boxes:
    raise UserError(f'--layout: {path} has no layout.')
  return boxes, labels


def _label(name, classes: Sequence[str] | None, path: str) -> int:
  if isinstance(name, int) and not isinstance(name, bool):
    if name < 0:
      raise UserError(
        f'--layout: {path} has the label {name}; classes begin at 0.'
      )
    return name
  if classes is None:
    raise UserError(
      f'--layout: {path} has the label {name!r}, but the names of the classes'
      ' are not known here; use numbers.'
    )
  if name not in classes:
    few = ', '.join(map(str, classes[:8]))
    raise UserError(
      f'--layout: {path} has the label {name!r}, which is none of the'
      f' {len(classes)} classes: {few}, ...'
    )
  return list(classes).index(name)


def pictures(flag: str, path: str) -> list[np.ndarray]:
  """Images uint8 [H W 3] of a file or folder, by name."""
  return [_read(flag, file) for file in _files(flag, path)]


def masks(flag: str, path: str) -> list[np.ndarray]:
  """Masks int32 [H W] of a file or folder; bright is 1, to be filled."""
  return [(_read(flag, f)[..., 0] >= 128).astype(np.int32)
          for f in _files(flag, path)]  # fmt: skip


def maps(flag: str, path: str) -> list[np.ndarray]:
  """Maps of classes int32 [H W] of a file or folder of PNGs.

  A palette.txt beside them says that they are colours; see data.pairs.
  """
  files = _files(flag, path)
  palette, classes = pairs.find_palette(os.path.dirname(files[0]))
  if palette is None:
    return [_read(flag, file, as_map=True) for file in files]
  convert = lambda f: pairs.to_classes(_read(flag, f), palette, classes)
  return [_guarded(flag, file, convert) for file in files]


def image_mask_pairs(path: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Images and masks of a folder of a.png and a_mask.png, as released."""
  source = pairs.Pairs(path, *_sides(path), 'mask')
  read = lambda i: _guarded('--image', source.name(i), lambda _: source[i])
  found = [read(i) for i in range(len(source))]
  return [e['image'] for e in found], [e['mask'] for e in found]


def _sides(path: str) -> tuple[list[str], list[str]]:
  found = pairs.find(os.path.abspath(path))
  return tuple(map(list, zip(*(found[key] for key in sorted(found)))))


def fit(
  pixels: np.ndarray, size: tuple[int, int], nearest: bool = False
) -> np.ndarray:
  """Resized to cover size (H, W), then cropped around the centre."""
  height, width = pixels.shape[:2]
  scale = max(size[0] / height, size[1] / width)
  # The part of the picture that is kept, in its own pixels.
  h, w = size[0] / scale, size[1] / scale
  left, top = (width - w) / 2, (height - h) / 2
  how = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
  box = (left, top, left + w, top + h)
  return np.array(Image.fromarray(pixels).resize(size[::-1], how, box=box))


def same_size(flag: str, found: Sequence[np.ndarray], hint: str) -> np.ndarray:
  """[B H W ..]; UserError where sizes differ, with what to do."""
  sizes = sorted({pixels.shape[:2] for pixels in found})
  if len(sizes) > 1:
    (a, b), (c, d) = sizes[0], sizes[-1]
    raise UserError(f'{flag} has files of {a}x{b} and of {c}x{d}; {hint}.')
  return np.stack(found)


def _files(flag: str, path: str) -> list[str]:
  if os.path.isfile(path):
    return [path]
  if not os.path.isdir(path):
    raise UserError(f'{flag}: {path} does not exist.')
  files = sorted(
    os.path.join(path, name)
    for name in os.listdir(path)
    if name.lower().endswith(images.EXTENSIONS)
  )
  if not files:
    raise UserError(
      f'{flag}: {path} holds no file that ends in'
      f' {", ".join(images.EXTENSIONS)}.'
    )
  return files


def _read(flag: str, file: str, as_map: bool = False) -> np.ndarray:
  return _guarded(flag, file, lambda f: images.read(f, as_map))


def _guarded(flag: str, file: str, read):
  """read(file), a bad image as the user's mistake."""
  try:
    return read(file)
  except images.BadImage as error:
    raise UserError(f'{flag}: {file}: {error}.') from error


def conditions(
  source,
  prepare,
  spec: DataSpec,
  num: int,
  seed: int = 0,
  first: int | None = None,
) -> tuple[dict[str, list], dict[str, np.ndarray]]:
  """A source's first `num` conditions: (short labels as JSON, task's arrays).

  Cropped around the centre, as in evaluation. With `first`, those from that
  one on, and from the source's first again where it ends.
  """
  if first is None and len(source) < num:
    raise UserError(
      f'{source!r} has {len(source)} examples; --num={num} is more.'
    )
  spec = spec.centred()
  read, transform = Read(source, spec), Transform(_Both(prepare), spec)
  labels, arrays = [], []
  for index in range(first or 0, (first or 0) + num):
    example = read(index % len(source))
    text = example.get('text', '')
    if not isinstance(text, str):  # The one that the sample will be held to.
      example['text'] = text[0]
    made = transform(example, np.random.default_rng((seed, index)))
    labels.append(made['labels'])
    arrays.append(made['arrays'])
  keys = prepare.blank(spec.size)
  return (
    {k: [label[k] for label in labels] for k in labels[0]},
    {k: np.stack([array[k] for array in arrays]) for k in keys},
  )


class _Both:
  """A task's prepare that also gives the labels that it makes arrays of."""

  def __init__(self, prepare):
    self.prepare = prepare

  def __call__(self, example: dict, rng: np.random.Generator) -> dict:
    shown = dict(example)
    if 'boxes' in shown:
      shown['boxes'] = images.in_crop(shown['boxes'], shown['crop'])
    labels = {
      key: np.asarray(shown[key]).tolist()
      for key in self.prepare.needs
      if np.ndim(shown[key]) < 2 or key == 'boxes'  # No maps.
    }
    return {'labels': labels, 'arrays': self.prepare(example, rng)}
