"""Where examples come from: random access, by index, with whatever labels.

A source has `len(source)` and `source[i]`, a dict with `image` uint8 [H W 3]
and perhaps `label` int, `text` str, `boxes` float32 [N 4] (x0 y0 x1 y1 in
[0, 1]), `box_labels` int32 [N], `segmentation` int32 [H W] and `mask` int32
[H W]. A source of stored images also has `name(i)`, and raises
`images.BadImage` for one that cannot be read. Sources are pickled to the data
workers.
"""

import os
import re

import numpy as np

from ldm_jax.data import coco, folder, images, openimages, pairs
from ldm_jax.data.spec import DataSpec
from ldm_jax.types import UserError


def open_source(spec: DataSpec, split: str):
  """The source that `spec` names; `split` is a name such as 'train'."""
  if spec.source == 'scenes':
    from ldm_jax.data.scenes import Scenes

    num_examples = spec.num_examples if split == spec.train_split else 0
    return Scenes(
      num_examples=num_examples,
      size=spec.size,
      max_objects=spec.max_objects,
      seed=0,
      split=split,
    )
  if spec.source == 'folder':
    return folder.open_folder(
      spec.path, split, holdout=spec.holdout, is_train=split == spec.train_split
    )
  if spec.source.startswith('tfds:'):
    return Tfds(spec.source.removeprefix('tfds:'), split, spec.tfds_data_dir)
  sides = dict(holdout=spec.holdout, is_train=split == spec.train_split)
  if spec.source == 'coco':
    return coco.open_coco(spec.path, split, **sides)
  if spec.source == 'openimages':
    return openimages.open_openimages(spec.path, split)
  if spec.source in ('pairs', 'masks'):
    kind = 'mask' if spec.source == 'masks' else 'segmentation'
    return pairs.open_pairs(spec.path, split, kind, **sides)
  raise UserError(
    f'data.source={spec.source!r}; it must be scenes, folder, coco, openimages,'
    ' pairs, masks or tfds:NAME.'
  )


class Tfds:
  """A split of a TFDS dataset that was prepared as ArrayRecord.

  Reading needs no TensorFlow. Images are decoded by `images.decode`.

  Args:
    name: 'dataset', 'dataset/config' or either with ':version'.
    split: a split of the dataset, such as 'train' or 'train[:90%]'.
    data_dir: where it was prepared; '' is $TFDS_DATA_DIR or TFDS's default.
  """

  def __init__(self, name: str, split: str, data_dir: str = ''):
    import tensorflow_datasets as tfds

    self.dataset, self.split = name, split
    prepared = find_tfds(name, data_dir)
    builder = tfds.builder_from_directory(prepared)
    if builder.info.file_format.value not in ('array_record', 'parquet'):
      raise UserError(
        f'{prepared} is stored as {builder.info.file_format.value}, which'
        f' cannot be read by index. {_HOW_TO_PREPARE}'
      )
    if split.split('[')[0] not in builder.info.splits:
      raise UserError(
        f'tfds:{name} has no split {split!r}; it has'
        f' {", ".join(sorted(builder.info.splits))}. Set data.train_split or'
        ' data.eval_split.'
      )
    self._columns = _columns(builder.info.features, name)
    # Bytes, not pixels: `images` decodes them, with its limits.
    raw = {self._columns['image']: tfds.decode.SkipDecoding()}
    try:
      self._records = builder.as_data_source(split, decoders=raw)
    except ValueError as e:
      raise UserError(
        f'tfds:{name} has no part {split!r}: {str(e).splitlines()[-1]}'
      ) from e

  def __len__(self) -> int:
    return len(self._records)

  def __repr__(self) -> str:
    return f'tfds:{self.dataset} ({self.split})'

  def name(self, index: int) -> str:
    return f'tfds:{self.dataset}/{self.split}[{index}]'

  def __getitem__(self, index: int) -> dict:
    record = self._records[index]
    column = lambda key: record[self._columns[key]]
    example = {'image': images.decode(column('image'))}
    if 'label' in self._columns:
      example['label'] = int(column('label'))
    if 'text' in self._columns:
      example['text'] = _text(column('text'))
    if 'objects' in self._columns:
      objects = column('objects')
      # TFDS boxes are y0 x0 y1 x1.
      boxes = np.asarray(objects['bbox'], np.float32).reshape(-1, 4)
      example['boxes'] = boxes[:, [1, 0, 3, 2]]
      example['box_labels'] = np.asarray(objects['label'], np.int32)
    return example


_HOW_TO_PREPARE = (
  'Prepare it once, where TensorFlow is installed, with'
  " tfds.builder(NAME, data_dir=DIR, file_format='array_record')"
  '.download_and_prepare(), and set data.tfds_data_dir=DIR.'
)


def find_tfds(name: str, data_dir: str = '') -> str:
  """The folder of the newest prepared version of 'dataset[/config][:version]'.

  Raises:
    UserError: nothing was prepared there, or the config must be named.
  """
  root = os.path.expanduser(
    data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  )
  path, _, version = name.partition(':')
  top = os.path.join(root, *path.split('/'))
  found = _versions(top)
  if not found and os.path.isdir(top):
    configs = [c for c in sorted(os.listdir(top)) if _versions(f'{top}/{c}')]
    if len(configs) > 1:
      raise UserError(
        f'tfds:{name} has several configurations; name one, such as'
        f' tfds:{path}/{configs[0]} (of {", ".join(configs)}).'
      )
    for config in configs:
      top = os.path.join(top, config)
      found = _versions(top)
  if version:
    found = [v for v in found if v == version]
  if not found:
    raise UserError(
      f'tfds:{name} was not found under {root}. {_HOW_TO_PREPARE}'
    )
  return os.path.join(top, found[-1])


def _versions(folder_: str) -> list[str]:
  """Version folders that hold a dataset, oldest first."""
  if not os.path.isdir(folder_):
    return []
  found = [
    entry
    for entry in os.listdir(folder_)
    if re.fullmatch(r'\d+\.\d+\.\d+', entry)
    and os.path.isfile(os.path.join(folder_, entry, 'dataset_info.json'))
  ]
  return sorted(found, key=lambda v: tuple(map(int, v.split('.'))))


def _columns(features, name: str) -> dict[str, str]:
  """Our key -> the dataset's, by name and then by kind of feature."""
  kinds = {key: type(feature).__name__ for key, feature in features.items()}
  columns = {}
  for ours, names, kind in (
    ('image', ('image',), 'Image'),
    ('label', ('label',), 'ClassLabel'),
    ('text', ('text', 'caption', 'captions'), 'Text'),
  ):
    named = [key for key in names if key in kinds]
    alike = [key for key, found in kinds.items() if found == kind]
    if named or len(alike) == 1:
      columns[ours] = (named or alike)[0]
  if 'objects' in kinds and {'bbox', 'label'} <= _inner(features['objects']):
    columns['objects'] = 'objects'
  if 'image' not in columns:
    raise UserError(f'tfds:{name} has no image; it has {", ".join(kinds)}.')
  return columns


def _inner(feature) -> set[str]:
  """The keys inside a sequence of dicts, such as a list of objects."""
  inner = getattr(feature, 'feature', None)
  return set(inner.keys()) if hasattr(inner, 'keys') else set()


def _text(value) -> str | list[str]:
  """A caption, or all of several, from what TFDS makes of them."""
  if isinstance(value, dict):  # A caption among its own annotations.
    value = value.get('text', next(iter(value.values())))
  if isinstance(value, bytes):
    return value.decode('utf-8')
  if isinstance(value, str):
    return value
  if np.ndim(value) == 0:
    return _text(np.asarray(value).item())
  return [_text(one) for one in value]
