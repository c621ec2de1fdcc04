"""Splits named on the command line: of the data, or a typo that is told."""

import pytest
from PIL import Image

from ldm_jax.data.spec import DataSpec
from ldm_jax.splits import open_split
from ldm_jax.types import UserError


def test_a_folder_without_splits_takes_no_name_that_nobody_gave(tmp_path):
  Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
  spec = DataSpec('folder', 8, str(tmp_path), eval_split='photos')
  for name in ('train', 'photos', 'validation', 'val'):
    assert len(open_split(spec, name, '--inputs')) == 1
  for name in ('trian', '/data/typo', str(tmp_path / 'gone')):
    with pytest.raises(UserError) as error:
      open_split(spec, name, '--reference', 'a path')
    assert f'--reference={name} is no split' in str(error.value)
    assert 'photos and train, nor a path' in str(error.value)


def test_splits_of_coco_have_any_name(tmp_path):
  (tmp_path / 'annotations').mkdir()
  content = '{"images": [], "annotations": [], "categories": []}'
  for name in ('instances.json', 'instances_minival2014.json'):
    (tmp_path / 'annotations' / name).write_text(content)
  spec = DataSpec('coco', 8, str(tmp_path))
  with pytest.raises(UserError, match='--inputs=typo is no split'):
    open_split(spec, 'typo', '--inputs')
  with pytest.raises(UserError) as error:  # Of the data: it is empty.
    open_split(spec, 'minival', '--inputs')
  assert 'no split' not in str(error.value)


def test_other_sources_know_their_splits():
  with pytest.raises(UserError, match="scenes has no split 'typo'"):
    open_split(DataSpec('scenes', 8), 'typo', '--inputs')
  with pytest.raises(UserError, match='--reference=/data/typo is no split'):
    open_split(DataSpec('scenes', 8), '/data/typo', '--reference')
