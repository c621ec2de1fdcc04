"""COCO's layout on disk, in its usual variants; and what it is not."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import boxed, coco
from ldm_jax.data.pipeline import DataSpec
from ldm_jax.data.sources import open_source
from ldm_jax.types import UserError


def annotations(names) -> dict:
  """Two boxes on every image, and a crowd."""
  box = lambda image, category, bbox, crowd=0: {
    'image_id': image, 'category_id': category, 'bbox': bbox, 'iscrowd': crowd,
  }  # fmt: skip
  return {
    'images': [
      {'id': 10 + i, 'file_name': name, 'width': 40, 'height': 20}
      for i, name in enumerate(names)
    ],
    'categories': [{'id': 90, 'name': 'tree'}, {'id': 3, 'name': 'car'}],
    'annotations': [
      b
      for i in range(len(names))
      for b in (
        box(10 + i, 90, [10, 5, 20, 10]),
        box(10 + i, 3, [0, 0, 4, 20]),
        box(10 + i, 3, [0, 0, 40, 20], 1),
      )
    ],
  }


def store(folder, names):
  folder.mkdir(parents=True, exist_ok=True)
  for i, name in enumerate(names):
    Image.new('RGB', (40, 20), (i, 0, 0)).save(folder / name, quality=95)


@pytest.fixture
def root(tmp_path):
  for split, names in (
    ('train2017', ['a.jpg', 'b.jpg']),
    ('val2017', ['c.jpg']),
  ):
    store(tmp_path / split, names)
    (tmp_path / 'annotations').mkdir(exist_ok=True)
    file = tmp_path / 'annotations' / f'instances_{split}.json'
    file.write_text(json.dumps(annotations(names)))
  return tmp_path


def test_boxes_are_corners_in_units_of_the_image(root):
  source = coco.open_coco(str(root), 'train')
  example = source[1]
  assert len(source) == 2 and example['image'].shape == (20, 40, 3)
  np.testing.assert_allclose(
    example['boxes'], [[0.25, 0.25, 0.75, 0.75], [0, 0, 0.1, 1]]
  )
  # In the order of the ids: car 3, tree 90.
  assert example['box_labels'].tolist() == [1, 0]
  assert source.classes == ['car', 'tree']


def test_splits_by_any_of_their_names(root):
  for split in ('validation', 'val', 'val2017'):
    assert coco.open_coco(str(root), split).name(0).endswith('c.jpg')
  spec = DataSpec('coco', 16, str(root))
  assert len(open_source(spec, 'train')) == 2


def test_one_file_beside_its_images_is_held_out_by_name(tmp_path):
  names = [f'{i}.png' for i in range(40)]
  store(tmp_path / 'images', names)
  (tmp_path / 'instances.json').write_text(json.dumps(annotations(names)))
  sides = [
    coco.open_coco(str(tmp_path), split, holdout=0.3, is_train=is_train)
    for split, is_train in (('train', True), ('validation', False))
  ]
  files = [set(side.files) for side in sides]
  assert len(files[0] | files[1]) == 40 and not files[0] & files[1]
  assert 3 < len(files[1]) < 22


def test_a_file_of_train_alone_is_shared_with_the_other_side(root):
  folder = root / 'annotations'
  (folder / 'instances_val2017.json').unlink()
  sides = [
    coco.open_coco(str(root), split, holdout=0.0, is_train=is_train).files
    for split, is_train in (('train', True), ('validation', False))
  ]
  assert sides[0] == sides[1] and len(sides[0]) == 2


def test_one_file_in_its_folder_is_found_once(tmp_path):
  names = ['a.png', 'b.png']
  store(tmp_path / 'images', names)
  (tmp_path / 'annotations').mkdir()
  text = json.dumps(annotations(names))
  (tmp_path / 'annotations' / 'instances.json').write_text(text)
  assert len(coco.open_coco(str(tmp_path), 'train')) == 2


def test_images_with_too_few_boxes_are_left_out(root):
  with pytest.raises(UserError, match='3 to'):
    coco.open_coco(str(root), 'train', rule=boxed.Filter(min_boxes=3))


def test_missing_and_broken_annotations_are_named(root, tmp_path):
  with pytest.raises(UserError, match="'test'.*instances_train2017.json"):
    coco.open_coco(str(root), 'test')
  file = root / 'annotations' / 'instances_train2017.json'
  for content in ('{', '[]', '{"images": []}', '{"images": [{}]}'):
    file.write_text(content)
    with pytest.raises(UserError, match='instances_train2017.json'):
      coco.open_coco(str(root), 'train')
  with pytest.raises(UserError, match='not a folder'):
    coco.open_coco(str(root / 'nowhere'), 'train')
