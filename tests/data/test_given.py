"""Files of inputs: read, brought to one size, or refused in one line."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import given, scenes
from ldm_jax.data.spec import DataSpec
from ldm_jax.tasks import inpainting, layout, semantic, super_resolution, text
from ldm_jax.types import UserError


def test_one_layout_or_several_by_number_or_name(tmp_path):
  one = {'boxes': [[0, 0, 0.5, 1]], 'labels': ['car']}
  two = {'boxes': [], 'labels': []}
  path = tmp_path / 'layout.json'
  path.write_text(json.dumps(one))
  boxes, labels = given.layouts(str(path), ['tree', 'car'])
  np.testing.assert_array_equal(boxes[0], [[0, 0, 0.5, 1]])
  assert labels[0].tolist() == [1]
  path.write_text(json.dumps([one | {'labels': [7]}, two]))
  boxes, labels = given.layouts(str(path))
  assert labels[0].tolist() == [7] and boxes[1].shape == (0, 4)


@pytest.mark.parametrize(
  'content, message',
  [
    ('{', 'cannot be read'),
    ('[]', 'no layout'),
    ('[3]', 'layout 0'),
    ('{"boxes": [[1, 2]], "labels": [1]}', 'layout 0'),
    ('{"boxes": [[0, 0, 1, 1]], "labels": []}', '1 boxes and 0 labels'),
    ('{"boxes": [[0, 0, 1, 1]], "labels": ["cow"]}', "'cow'.*tree, car"),
    ('{"boxes": [[0, 0, 1, 1]], "labels": [-1]}', 'label -1; .* begin at 0'),
  ],
)
def test_layouts_that_are_none(tmp_path, content, message):
  path = tmp_path / 'layout.json'
  path.write_text(content)
  with pytest.raises(UserError, match=message):
    given.layouts(str(path), ['tree', 'car'])
  with pytest.raises(UserError, match='cannot be read'):
    given.layouts(str(tmp_path / 'none.json'))


def test_names_need_known_classes(tmp_path):
  path = tmp_path / 'layout.json'
  path.write_text('{"boxes": [[0, 0, 1, 1]], "labels": ["cow"]}')
  with pytest.raises(UserError, match='use numbers'):
    given.layouts(str(path))


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
  for i in (2, 0, 1):
    Image.new('L', (4, 6), 100 * i).save(tmp_path / f'{i}.png')
  found = given.pictures('--image', str(tmp_path))
  assert [x[0, 0, 0] for x in found] == [0, 100, 200]
  assert [m.max() for m in given.masks('--mask', str(tmp_path))] == [0, 0, 1]
  maps = given.maps('--segmentation', str(tmp_path / '2.png'))
  assert maps[0].shape == (6, 4) and (maps[0] == 200).all()


def test_maps_in_colours_need_their_palette(tmp_path):
  Image.new('RGB', (4, 4), (9, 8, 7)).save(tmp_path / 'a.png')
  path = str(tmp_path / 'a.png')
  with pytest.raises(UserError, match='a.png.*palette.txt'):
    given.maps('--segmentation', path)
  (tmp_path / 'palette.txt').write_text('1 2 3 sky\n9 8 7 sea\n')
  assert (given.maps('--segmentation', path)[0] == 1).all()
  (tmp_path / 'palette.txt').write_text('1 2 3 sky\n')
  with pytest.raises(UserError, match='9 8 7'):
    given.maps('--segmentation', path)


def test_pairs_as_the_release_reads_them(tmp_path):
  for name in ('b', 'a'):
    Image.new('RGB', (4, 4), (ord(name), 0, 0)).save(tmp_path / f'{name}.png')
    Image.new('L', (4, 4), 255).save(tmp_path / f'{name}_mask001.png')
  found, masks = given.image_mask_pairs(str(tmp_path))
  assert [x[0, 0, 0] for x in found] == [ord('a'), ord('b')]
  assert all((m == 1).all() for m in masks)
  Image.new('L', (4, 5), 255).save(tmp_path / 'a_mask001.png')
  with pytest.raises(UserError, match='4x5'):
    given.image_mask_pairs(str(tmp_path))


@pytest.mark.parametrize('size', [(8, 8), (4, 8), (16, 4)])
def test_fitting_keeps_the_middle(size):
  y, x = np.mgrid[0:24, 0:32]
  wide = np.stack([8 * x, 8 * y, 0 * x], -1).astype(np.uint8)
  found = given.fit(wide, size)
  assert found.shape == (*size, 3)
  middle = found.astype(float).mean(axis=(0, 1))
  np.testing.assert_allclose(middle, [8 * 15.5, 8 * 11.5, 0], atol=2)
  classes = given.fit((x // 16).astype(np.int32), size, nearest=True)
  assert set(np.unique(classes)) == {0, 1}


def test_mixed_sizes_ask_for_one():
  images = [np.zeros((4, 4, 3)), np.zeros((4, 6, 3))]
  with pytest.raises(UserError, match='4x4 and of 4x6; do this'):
    given.same_size('--image', images, 'do this')


def test_paths_that_do_not_exist(tmp_path):
  with pytest.raises(UserError, match='does not exist'):
    given.pictures('--image', str(tmp_path / 'x'))
  with pytest.raises(UserError, match='no file'):
    given.pictures('--image', str(tmp_path))


@pytest.mark.parametrize(
  'prepare, labels, arrays',
  [
    (text.Prepare(vocab_file='scenes', length=16), {'text'}, {'tokens'}),
    (layout.Prepare(), {'boxes', 'box_labels'}, {'tokens'}),
    (semantic.Prepare(41), set(), {'segmentation'}),
    (super_resolution.Prepare(), set(), {'low_res'}),
    (inpainting.Prepare(), set(), {'image', 'mask'}),
  ],
)
def test_conditions_are_what_the_task_makes_of_a_source(
  prepare, labels, arrays
):
  spec = DataSpec('scenes', 32, max_objects=3)
  found = [
    given.conditions(scenes.Scenes(), prepare, spec, num) for num in (3, 2)
  ]
  assert set(found[0][0]) == labels and set(found[0][1]) == arrays
  json.dumps(found[0][0])
  for key in arrays:
    assert found[0][1][key].shape[0] == 3
    # An example's condition depends on nothing else.
    np.testing.assert_array_equal(found[0][1][key][:2], found[1][1][key])


def test_layouts_are_kept_as_the_crop_shows_them():
  class Wide(list):
    def __getitem__(self, index):
      return {
        'image': np.zeros((8, 16, 3), np.uint8),
        'boxes': np.float32([[0, 0, 0.5, 1], [0.8, 0, 1, 1]]),
        'box_labels': np.int32([1, 2]),
      }

  labels, _ = given.conditions(
    Wide([0]), layout.Prepare(), DataSpec('folder', 8), 1
  )
  assert labels['boxes'] == [[[0, 0, 0.5, 1]]]
  assert labels['box_labels'] == [[1]]


def test_more_conditions_than_there_are():
  with pytest.raises(UserError, match='5 examples; --num=6'):
    source = scenes.Scenes(num_examples=5)
    spec = DataSpec('scenes', 32)
    given.conditions(source, inpainting.Prepare(), spec, 6)
