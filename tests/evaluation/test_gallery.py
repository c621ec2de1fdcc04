"""Galleries: what is written is found again, and nothing else is touched."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.evaluation import gallery
from ldm_jax.types import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


def write(folder, count=5, **settings):
  written = gallery.Gallery(folder, 'A <title>', **settings)
  for i in range(count):
    written.add(IMAGES[i], {'text': f'thing {i} & more', 'seed': 3})
  return written.close()


def test_images_and_facts_come_back(tmp_path):
  page = write(tmp_path / 'out')
  images, rows = gallery.read_images(tmp_path / 'out')
  np.testing.assert_array_equal(images, IMAGES)
  assert [row['text'] for row in rows] == [
    f'thing {i} & more' for i in range(5)
  ]
  with Image.open(tmp_path / 'out' / rows[2]['file']) as image:
    assert image.text == {'text': 'thing 2 & more', 'seed': '3'}
  text = page.read_text()
  assert 'A &lt;title&gt;' in text and 'thing 4 &amp; more' in text
  assert 'http' not in text  # It needs no network.


def test_no_metadata_says_nothing(tmp_path):
  write(tmp_path / 'out', metadata=False)
  _, rows = gallery.read_images(tmp_path / 'out')
  assert set(rows[0]) == {'file'}
  with Image.open(tmp_path / 'out' / rows[0]['file']) as image:
    assert not image.text


def test_a_gallery_may_be_drawn_again_and_leaves_no_old_image(tmp_path):
  write(tmp_path / 'out')
  write(tmp_path / 'out', count=2)
  assert len(list((tmp_path / 'out').glob('0*.png'))) == 2


def test_a_gallery_stays_until_the_next_one_has_an_image(tmp_path):
  write(tmp_path / 'out')
  later = gallery.Gallery(tmp_path / 'out', 'x')
  assert len(gallery.read_images(tmp_path / 'out')[0]) == 5
  later.add(IMAGES[0], {})
  assert len(list((tmp_path / 'out').glob('0*.png'))) == 1


def test_foreign_files_are_not_overwritten(tmp_path):
  (tmp_path / 'thesis.txt').write_text('mine')
  with pytest.raises(UserError, match='nothing is overwritten'):
    gallery.Gallery(tmp_path, 'x')
  assert (tmp_path / 'thesis.txt').read_text() == 'mine'


def test_what_is_no_gallery_is_named(tmp_path):
  with pytest.raises(UserError, match='Is .* a folder that sample.py wrote'):
    gallery.read_images(tmp_path)
