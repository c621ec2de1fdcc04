"""Boxes put in order and filtered; files found beside their annotations."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import boxed
from ldm_jax.types import UserError

ANY = boxed.Filter()


@pytest.fixture
def files(tmp_path):
  paths = []
  for i in range(4):
    path = tmp_path / f'{i}.png'
    Image.new('RGB', (40, 20), (i, 0, 0)).save(path)
    paths.append(str(path))
  return paths


def collect(files, rule=ANY):
  return boxed.collect(
    'test',
    files,
    np.array([2, 0, 2, 1, 2]),
    np.array(
      [
        [0, 0, 0.5, 0.5],
        [0.1, 0.1, 0.2, 0.2],
        [0.5, 0, 1.2, 1],
        [0, 0, 1, 1],
        [0.3, 0.3, 0.3, 0.9],
      ]
    ),
    np.array([7, 1, 8, 2, 9]),
    list('abcdefghij'),
    rule,
  )


def test_each_image_has_its_boxes_in_their_order(files):
  source = collect(files)
  example = source[2]
  assert example['image'][0, 0, 0] == 2
  # Cut at the border; a box without an area is none.
  np.testing.assert_allclose(
    example['boxes'], [[0, 0, 0.5, 0.5], [0.5, 0, 1, 1]]
  )
  assert example['box_labels'].tolist() == [7, 8]
  assert len(source[3]['boxes']) == 0 and source[3]['boxes'].shape == (0, 4)


@pytest.mark.parametrize(
  'rule, names',
  [
    (ANY, '0123'),
    (boxed.Filter(min_boxes=1), '012'),
    (boxed.Filter(min_boxes=2), '2'),
    (boxed.Filter(min_boxes=1, max_boxes=1), '01'),
    (boxed.Filter(min_area=0.3, min_boxes=1), '12'),
  ],
)
def test_filters(files, rule, names):
  source = collect(files, rule)
  assert [source.name(i)[-5] for i in range(len(source))] == list(names)
  assert [source[i]['image'][0, 0, 0] for i in range(len(source))] == [
    int(n) for n in names
  ]


def test_images_that_are_not_stored_are_left_out(files):
  source = collect([files[0], '', files[2], files[3]])
  assert len(source) == 3 and source[1]['box_labels'].tolist() == [7, 8]


def test_nothing_left_is_one_clear_line(files):
  with pytest.raises(UserError, match='5 to 9 boxes'):
    collect(files, boxed.Filter(min_boxes=5, max_boxes=9))


def test_files_are_located_where_most_of_them_are(tmp_path, files):
  (tmp_path / 'empty').mkdir()
  names = ['0.png', '2.png', '9.png']
  found = boxed.locate(names, [tmp_path / 'empty', tmp_path], 'test')
  assert found == [files[0], files[2], '']
  with pytest.raises(UserError, match="'9.png'"):
    boxed.locate(['9.png'], [tmp_path], 'test')
  with pytest.raises(UserError, match='outside'):
    boxed.locate(['../0.png'], [tmp_path], 'test')
