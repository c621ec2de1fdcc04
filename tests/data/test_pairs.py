"""Pairs are found in any usual order of folders; maps keep their numbers."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import images, pairs
from ldm_jax.data.pipeline import DataSpec, eval_batches
from ldm_jax.data.sources import open_source
from ldm_jax.tasks.inpainting import Prepare as Inpainting
from ldm_jax.tasks.semantic import Prepare as Semantic
from ldm_jax.types import UserError

CLASSES = np.tile(np.arange(24, dtype=np.uint8) // 8, (16, 1))  # [16 24]


def store(root, picture, map_, mode='L', content=CLASSES):
  for name in (picture, map_):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', (24, 16), (9, 9, 9)).save(root / picture)
  image = Image.fromarray(content)
  if mode == 'P':
    image = image.convert('P')
    image.putdata(content.ravel().tolist())
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
  image.save(root / map_)


@pytest.mark.parametrize(
  'picture, map_',
  [
    ('images/train/a.jpg', 'labels/train/a.png'),
    ('train/images/a.jpg', 'train/masks/a.png'),
    ('train/a.png', 'trainannot/a.png'),
    ('images/training/sub/a.jpg', 'annotations/training/sub/a.png'),
    ('train/a.png', 'train/a_mask.png'),
    ('leftImg8bit/train/x/a_leftImg8bit.png',
     'gtFine/train/x/a_gtFine_labelIds.png'),
  ],
)  # fmt: skip
@pytest.mark.parametrize('mode', ['L', 'P'])
def test_pairs_are_found_by_name(tmp_path, picture, map_, mode):
  store(tmp_path, picture, map_, mode)
  source = open_source(DataSpec('pairs', 16, str(tmp_path)), 'train')
  assert len(source) == 1
  np.testing.assert_array_equal(source[0]['segmentation'], CLASSES)


def test_a_folder_for_training_alone_is_shared(tmp_path, caplog):
  for i in range(30):
    store(tmp_path, f'train/images/{i}.png', f'train/labels/{i}.png')
  spec = DataSpec('pairs', 16, str(tmp_path), holdout=0.3)
  train, rest = (open_source(spec, s) for s in ('train', 'validation'))
  assert len(train) + len(rest) == 30 and 2 < len(rest) < 17
  assert not set(train.files) & set(rest.files)
  with caplog.at_level('WARNING'):
    all_of_them = open_source(dataclasses.replace(spec, holdout=0.0), 'val')
  assert len(all_of_them) == 30 and 'data.holdout=0' in caplog.text
  store(tmp_path, 'test/images/0.png', 'test/labels/0.png')
  with pytest.raises(UserError, match="'validation'.*test, train"):
    open_source(spec, 'validation')


def test_without_splits_a_share_is_held_out(tmp_path):
  for i in range(30):
    store(tmp_path, f'images/{i}.png', f'labels/{i}_P.png')
  spec = DataSpec('pairs', 16, str(tmp_path), holdout=0.3)
  train, rest = (open_source(spec, s) for s in ('train', 'validation'))
  assert len(train) + len(rest) == 30 and 2 < len(rest) < 17
  assert not set(train.files) & set(rest.files)


def test_the_palette_names_classes_by_colour(tmp_path):
  colours = np.uint8([[0, 0, 0], [64, 128, 64], [192, 0, 128]])
  store(tmp_path, 'images/a.png', 'labels/a.png', content=colours[CLASSES])
  (tmp_path / 'label_colors.txt').write_text(
    '0 0 0\t\tVoid\n64 128 64\tAnimal\n192 0 128 Archway\n'
  )
  source = open_source(DataSpec('pairs', 16, str(tmp_path)), 'train')
  assert source.classes == ['Void', 'Animal', 'Archway']
  found = source[0]['segmentation']
  np.testing.assert_array_equal(found, np.array([-1, 1, 2])[CLASSES])
  (tmp_path / 'label_colors.txt').write_text('0 0 0 Void\n64 128 64 Animal\n')
  source = open_source(DataSpec('pairs', 16, str(tmp_path)), 'train')
  with pytest.raises(images.BadImage, match='a.png: the colour 192 0 128'):
    source[0]


@pytest.mark.parametrize(
  'content, message',
  [('0 0 red x', 'line 1'), ('0 0 0 a\n0 0 0 b', 'line 2'), ('', 'no colours')],
)
def test_palettes_that_are_none(tmp_path, content, message):
  (tmp_path / 'palette.txt').write_text(content)
  with pytest.raises(UserError, match=message):
    pairs.read_palette(str(tmp_path / 'palette.txt'))


def test_what_is_no_map_is_a_bad_image(tmp_path):
  store(tmp_path, 'images/a.png', 'labels/a.png')
  source = pairs.open_pairs(str(tmp_path), 'train')
  path = tmp_path / 'labels' / 'a.png'
  Image.new('RGB', (24, 16)).save(path)
  with pytest.raises(images.BadImage, match='one channel'):
    source[0]
  Image.new('L', (16, 16)).save(path)
  with pytest.raises(images.BadImage, match='16x16 pixels and its image 24x16'):
    source[0]


def test_folders_without_pairs(tmp_path):
  Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
  with pytest.raises(UserError, match='1 images and 0 maps'):
    pairs.open_pairs(str(tmp_path), 'train')


def test_maps_and_masks_follow_the_crop_to_the_tasks(tmp_path):
  bright = np.where(CLASSES == 1, np.uint8(255), np.uint8(0))
  store(tmp_path / 'maps', 'images/a.png', 'labels/a.png')
  store(tmp_path / 'masks', 'a.png', 'a_mask.png', content=bright)
  for source, prepare, key in (
    ('pairs', Semantic(3), 'segmentation'),
    ('masks', Inpainting(), 'mask'),
  ):
    spec = DataSpec(
      source, 16, str(tmp_path / {'pairs': 'maps'}.get(source, source))
    )
    opened = open_source(spec, 'train')
    batch = next(eval_batches(opened, prepare, spec, batch_size=1))
    expected = (
      CLASSES[:, 4:20] if key == 'segmentation' else bright[:, 4:20] > 0
    )
    np.testing.assert_array_equal(batch[key][0].squeeze(), expected)
