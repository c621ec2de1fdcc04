"""Images from folders, galleries, npz, shards and splits: the same pixels."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.scenes import Scenes
from ldm_jax.data.spec import DataSpec
from ldm_jax.evaluation import gallery, image_sets, npz
from ldm_jax.evaluation.shards import Shards
from ldm_jax.types import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 8, 10, 3), np.uint8)


def save(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(path)


@pytest.fixture
def everywhere(tmp_path):
  """The same images as a folder, an npz, shards and a gallery."""
  for i, image in enumerate(IMAGES):
    save(tmp_path / 'folder' / 'abc'[i // 3] / f'{i}.png', image)
  npz.write(tmp_path / 'images.npz', IMAGES)
  shards = Shards.create(tmp_path / 'shards', 7, 4, {})
  shards.write(0, IMAGES[:4])
  shards.write(4, np.concatenate([IMAGES[4:], IMAGES[:1]]))
  drawn = gallery.Gallery(tmp_path / 'gallery', 'Drawn')
  for image in IMAGES:
    drawn.add(image, {}, picture=image[:4])
  drawn.close()
  return [tmp_path / n for n in ('folder', 'images.npz', 'shards', 'gallery')]


def test_every_kind_gives_the_same_images_in_order(everywhere):
  for path in everywhere:
    found = image_sets.open_path(str(path), '--samples')
    assert found.count == 7
    for size in (1, 3, 7, 50):
      batches = list(found.batches(size))
      assert [len(b) for b in batches[:-1]] == [size] * (len(batches) - 1)
      np.testing.assert_array_equal(sum(batches, []), IMAGES)


def test_the_digest_is_of_the_pixels_files(everywhere):
  folder = image_sets.open_path(str(everywhere[0]), '--reference')
  before = folder.digest()
  assert before == image_sets.open_path(str(everywhere[0]), '').digest()
  assert folder.first(3).digest() != before
  assert folder.first(9) is folder
  save(everywhere[0] / 'a' / '0.png', IMAGES[1])
  assert folder.digest() != before


def test_a_split_is_cropped_as_for_training():
  spec = DataSpec('scenes', 16, num_examples=30)
  source = Scenes(30, size=16, split='train')
  found = image_sets.of_source(source, spec, 'train')
  assert found.count == 30
  np.testing.assert_array_equal(found.read(5), source[5]['image'])
  other = image_sets.of_source(Scenes(31, size=16), spec, 'train')
  assert found.digest() != other.digest()
  again = image_sets.of_source(Scenes(30, size=16), spec, 'train')
  assert found.digest() == again.digest()
  # As evaluation sees it: resized, and never a share.
  part = dataclasses.replace(spec, size=8, resize=16)
  cut = image_sets.of_source(source, part, 'train')
  np.testing.assert_array_equal(cut.read(5), found.read(5)[4:12, 4:12])
  whole = image_sets.of_source(
    source, dataclasses.replace(part, resize=0), 'train'
  )
  assert cut.digest() != whole.digest()
  share = dataclasses.replace(spec, crop='random', min_crop=0.5)
  same = image_sets.of_source(source, share, 'train')
  np.testing.assert_array_equal(same.read(5), found.read(5))
  assert same.digest() == found.digest()


def test_what_holds_no_images(tmp_path):
  (tmp_path / 'a.txt').write_text('x')
  with pytest.raises(UserError, match='--samples=.* holds no file'):
    image_sets.open_path(str(tmp_path), '--samples')
  with pytest.raises(UserError, match='--reference=nowhere is neither'):
    image_sets.open_path('nowhere', '--reference')


def test_a_damaged_image_is_named(tmp_path):
  save(tmp_path / 'a.png', IMAGES[0])
  (tmp_path / 'b.png').write_bytes(b'no image')
  found = image_sets.open_path(str(tmp_path), '--samples')
  with pytest.raises(UserError, match='b.png'):
    list(found.batches(2))
