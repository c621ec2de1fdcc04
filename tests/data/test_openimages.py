"""OpenImages' tables: columns by name, groups left out, errors by line."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import openimages
from ldm_jax.data.pipeline import DataSpec
from ldm_jax.data.sources import open_source
from ldm_jax.types import UserError

HEADER = (
  'ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,'
  'IsTruncated,IsGroupOf,IsDepiction,IsInside\n'
)
ROWS = (
  'aa,x,/m/cat,1,0.1,0.5,0.2,0.6,0,0,0,0,0\n'
  'bb,x,/m/dog,1,0,1,0,1,0,0,0,0,0\n'
  'aa,x,/m/dog,1,0.5,0.9,0.5,0.9,0,0,0,0,0\n'
  'aa,x,/m/dog,1,0,1,0,1,0,0,1,0,0\n'
)


@pytest.fixture
def root(tmp_path):
  (tmp_path / 'class-descriptions-boxable.csv').write_text(
    '/m/cat,Cat\n/m/dog,"Dog, big"\n'
  )
  (tmp_path / 'oidv6-train-annotations-bbox.csv').write_text(HEADER + ROWS)
  (tmp_path / 'validation-annotations-bbox.csv').write_text(HEADER + ROWS)
  (tmp_path / 'train').mkdir()
  for name in ('aa', 'bb'):
    Image.new('RGB', (20, 20)).save(tmp_path / 'train' / f'{name}.jpg')
  return tmp_path


def test_boxes_and_classes(root):
  source = open_source(DataSpec('openimages', 16, str(root)), 'train')
  assert len(source) == 1 and source.name(0).endswith('aa.jpg')
  np.testing.assert_allclose(
    source[0]['boxes'], [[0.1, 0.2, 0.5, 0.6], [0.5, 0.5, 0.9, 0.9]]
  )
  assert source[0]['box_labels'].tolist() == [0, 1]
  assert source.classes == ['Cat', 'Dog, big']


def test_a_split_without_its_images_is_refused(root):
  with pytest.raises(UserError, match="'test'"):
    openimages.open_openimages(str(root), 'test')
  (root / 'train').rename(root / 'elsewhere')
  with pytest.raises(UserError, match="'aa.jpg'"):
    openimages.open_openimages(str(root), 'validation')


@pytest.mark.parametrize(
  'content, message',
  [
    ('ImageID,XMin\n', "no column 'LabelName'"),
    (HEADER + 'aa,x,/m/cow,1,0,1,0,1,0,0,0,0,0\n', 'line 2.*/m/cow'),
    (HEADER + 'aa,x,/m/cat,1,zero,1,0,1,0,0,0,0,0\n', 'line 2.*zero'),
    (HEADER + 'aa,x\n', 'line 2'),
  ],
)
def test_damage_is_named_by_line(root, content, message):
  (root / 'oidv6-train-annotations-bbox.csv').write_text(content)
  with pytest.raises(UserError, match=message):
    openimages.open_openimages(str(root), 'train')
