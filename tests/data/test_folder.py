"""What a folder of images means, and what is wrong with one that is none."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import folder
from ldm_jax.types import UserError


def save(root, *names, value=0):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (6, 4), (value, 0, 0)).save(path)


def write_metadata(root, rows):
  root.mkdir(parents=True, exist_ok=True)
  lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
  (root / 'metadata.jsonl').write_text('\n'.join(lines) + '\n')


def opened(root, split='train', **options):
  return folder.open_folder(
    str(root), split, is_train=split == 'train', **options
  )


# Layouts.


def test_a_plain_folder_has_images_alone(tmp_path):
  save(tmp_path, 'b.png', 'a.JPG', 'deep/er/c.webp')
  (tmp_path / 'notes.txt').write_text('no image')
  save(tmp_path, '.hidden.png', '__MACOSX/a.png')
  found = opened(tmp_path)
  assert found.files == ['a.JPG', 'b.png', 'deep/er/c.webp']
  assert set(found[0]) == {'image'}
  assert found[0]['image'].shape == (4, 6, 3)
  assert found.name(1) == str(tmp_path / 'b.png')


def test_class_folders_give_labels_in_the_order_of_their_names(tmp_path):
  save(tmp_path, 'dog/1.png', 'cat/1.png', 'cat/deeper/2.png')
  found = opened(tmp_path)
  assert found.classes == ['cat', 'dog']
  assert [found[i]['label'] for i in range(3)] == [0, 0, 1]


def test_one_folder_of_images_is_no_class(tmp_path):
  save(tmp_path, 'images/1.png', 'images/2.png')
  assert opened(tmp_path).labels is None


def test_splits_agree_on_classes_that_one_of_them_lacks(tmp_path):
  save(tmp_path, 'train/a/1.png', 'train/b/1.png', 'train/c/1.png')
  save(tmp_path, 'val/a/9.png', 'val/c/9.png')
  assert opened(tmp_path).labels == [0, 1, 2]
  found = opened(tmp_path, 'validation')
  assert found.files == ['val/a/9.png', 'val/c/9.png']
  assert found.labels == [0, 2]


def test_metadata_gives_texts_and_labels(tmp_path):
  save(tmp_path, 'images/x.png', 'images/y.png')
  write_metadata(
    tmp_path,
    [
      {'file_name': 'images/y.png', 'text': 'why', 'label': 7, 'more': []},
      {'file_name': 'images/x.png', 'text': ['ex', 'ks'], 'label': 3},
    ],
  )
  found = opened(tmp_path)
  assert found.files == ['images/x.png', 'images/y.png']
  assert found[0]['text'] == ['ex', 'ks'] and found[0]['label'] == 3
  assert found[1]['text'] == 'why' and found[1]['label'] == 7


def test_metadata_may_name_its_classes(tmp_path):
  save(tmp_path, 'x.png', 'y.png')
  write_metadata(
    tmp_path,
    [{'file_name': f'{n}.png', 'label': n.upper()} for n in 'yx'],
  )
  found = opened(tmp_path)
  assert found.classes == ['X', 'Y'] and found.labels == [0, 1]
  assert found.texts is None


def test_metadata_may_lie_in_each_split(tmp_path):
  for split, text in (('train', 'learn'), ('test', 'judge')):
    save(tmp_path, f'{split}/x.png')
    write_metadata(tmp_path / split, [{'file_name': 'x.png', 'text': text}])
  assert opened(tmp_path)[0]['text'] == 'learn'
  assert opened(tmp_path, 'test')[0]['text'] == 'judge'


def test_images_that_metadata_leaves_out_are_left_out_aloud(tmp_path, caplog):
  save(tmp_path, 'x.png', 'y.png', 'z.png')
  write_metadata(tmp_path, [{'file_name': 'x.png', 'text': 'one'}])
  with caplog.at_level(logging.WARNING):
    assert len(opened(tmp_path)) == 1
  assert '2 of the 3 images' in caplog.text


# Holding out.


def test_holdout_parts_the_files_and_stays_when_files_come(tmp_path):
  save(tmp_path, *[f'{i}.png' for i in range(40)])
  train = set(opened(tmp_path, holdout=0.25).files)
  held = set(opened(tmp_path, 'validation', holdout=0.25).files)
  assert not train & held and len(train | held) == 40
  assert 3 <= len(held) <= 18
  save(tmp_path, *[f'new{i}.png' for i in range(40)])
  assert train < set(opened(tmp_path, holdout=0.25).files)
  assert held < set(opened(tmp_path, 'validation', holdout=0.25).files)


def test_holdout_is_taken_from_a_train_folder_that_stands_alone(tmp_path):
  save(tmp_path, *[f'train/{i}.png' for i in range(40)])
  train = set(opened(tmp_path, holdout=0.25).files)
  held = set(opened(tmp_path, 'validation', holdout=0.25).files)
  assert held and train and not train & held


def test_nothing_held_out_is_said_aloud(tmp_path, caplog):
  save(tmp_path, 'a.png')
  with caplog.at_level(logging.WARNING):
    assert len(opened(tmp_path, 'validation')) == 1
  assert 'evaluation uses the training images' in caplog.text


def test_a_holdout_that_leaves_nothing_is_refused(tmp_path):
  save(tmp_path, 'a.png')
  with pytest.raises(UserError, match='No images for .*holdout=0.5'):
    [opened(tmp_path, s, holdout=0.5) for s in ('train', 'validation')]


# Mistakes.


@pytest.mark.parametrize('path', ['none', 'file.zip'])
def test_no_folder(path, tmp_path):
  (tmp_path / 'file.zip').write_bytes(b'PK')
  with pytest.raises(UserError, match='is not a folder'):
    opened(tmp_path / path)


def test_a_folder_that_is_not_given_is_asked_for():
  with pytest.raises(UserError, match='not set: .* --config.data.path=DIR'):
    opened('')


def test_metadata_is_utf_8_with_or_without_its_mark(tmp_path):
  Image.new('RGB', (4, 4)).save(tmp_path / 'a.png')
  row = '{"file_name": "a.png", "text": "a caf\u00e9"}'
  metadata = tmp_path / 'metadata.jsonl'
  for encoding in ('utf-8', 'utf-8-sig'):
    metadata.write_text(row, encoding=encoding)
    assert opened(tmp_path)[0]['text'] == 'a caf\u00e9'
  metadata.write_text(row, encoding='latin-1')
  with pytest.raises(UserError, match='metadata.jsonl is not UTF-8'):
    opened(tmp_path)


def test_an_empty_folder(tmp_path):
  (tmp_path / 'readme.txt').write_text('hello')
  with pytest.raises(UserError, match=r'No images in .*\.png, \.jpg'):
    opened(tmp_path)


def test_a_split_that_is_not_there_is_answered_with_those_that_are(tmp_path):
  save(tmp_path, 'train/1.png', 'test/1.png')
  with pytest.raises(UserError, match="'validation'; it has test, train. Set"):
    opened(tmp_path, 'validation')


@pytest.mark.parametrize(
  'row, message',
  [
    ('{"file_name": "x.png"', 'line 2 is not JSON'),
    ('["x.png"]', 'line 2 has no "file_name"'),
    ({'text': 'no name'}, 'line 2 has no "file_name"'),
    ({'file_name': 'lost.png'}, "line 2 names 'lost.png', which does not"),
    ({'file_name': '../x.png'}, 'outside the folder'),
    ({'file_name': '/etc/x.png'}, 'outside the folder'),
    ({'file_name': 'x.png', 'label': [1]}, 'label .1. is neither'),
    ({'file_name': 'x.png', 'text': 5}, 'text 5 is neither'),
    ({'file_name': 'x.png'}, "1 of 2 images .* have no 'text'.*x.png"),
  ],
)
def test_what_is_wrong_with_metadata_is_named(row, message, tmp_path):
  save(tmp_path, 'a.png', 'x.png')
  write_metadata(tmp_path, [{'file_name': 'a.png', 'text': 'good'}, row])
  with pytest.raises(UserError, match=message):
    opened(tmp_path)


def test_images_of_a_split_are_its_own(tmp_path):
  save(tmp_path, 'train/1.png', value=10)
  save(tmp_path, 'validation/1.png', value=200)
  reds = [
    opened(tmp_path, split)[0]['image'][0, 0, 0]
    for split in ('train', 'validation')
  ]
  np.testing.assert_array_equal(reds, [10, 200])
