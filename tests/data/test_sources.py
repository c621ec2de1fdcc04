"""Every kind of source opens by its name; TFDS is read without TensorFlow."""

import dataclasses
import io
import json
import pickle
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import images, pipeline, sources
from ldm_jax.data.spec import DataSpec
from ldm_jax.types import UserError

SPEC = DataSpec('scenes', 32)


def test_scenes():
  train = sources.open_source(
    dataclasses.replace(SPEC, num_examples=7, max_objects=2), 'train'
  )
  assert len(train) == 7 and train.max_objects == 2
  validation = sources.open_source(
    dataclasses.replace(SPEC, num_examples=7), 'validation'
  )
  assert len(validation) > 7
  assert train[0]['image'].shape == (32, 32, 3)
  assert {'label', 'text', 'boxes', 'box_labels', 'segmentation'} < set(
    train[0]
  )


def test_folder(tmp_path):
  Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
  spec = DataSpec('folder', 8, path=str(tmp_path))
  assert len(sources.open_source(spec, 'train')) == 1


@pytest.mark.parametrize('name', ['', 'imagenet', 'Folder'])
def test_an_unknown_source_is_refused(name):
  with pytest.raises(UserError, match='scenes, folder, coco.* or tfds:NAME'):
    sources.open_source(DataSpec(name, 32), 'train')


# TFDS, by real builders. Encoding pixels needs TensorFlow; files do not.


def png(value: int, height=20, width=24) -> io.BytesIO:
  file = io.BytesIO()
  Image.new('RGB', (width, height), (value, 0, 0)).save(file, 'PNG')
  file.seek(0)
  return file


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A TFDS data folder with two datasets in it."""
  import tensorflow_datasets as tfds

  class Blobs(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      features = {
        'image': tfds.features.Image(encoding_format='png'),
        'label': tfds.features.ClassLabel(names=['odd', 'even']),
        'text': tfds.features.Text(),
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples(10),
              'test': self._generate_examples(3)}  # fmt: skip

    def _generate_examples(self, count):
      for i in range(count):
        yield i, {'image': png(i), 'label': i % 2, 'text': f'number {i}'}

  class Photographs(tfds.core.GeneratorBasedBuilder):
    """Labels as COCO has them."""

    VERSION = tfds.core.Version('1.10.0')

    def _info(self):
      features = {
        'photo': tfds.features.Image(encoding_format='png'),
        'captions': tfds.features.Sequence({'text': tfds.features.Text()}),
        'objects': tfds.features.Sequence(
          {
            'bbox': tfds.features.BBoxFeature(),
            'label': tfds.features.ClassLabel(num_classes=5),
          }
        ),
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      box = tfds.features.BBox(ymin=0.1, xmin=0.2, ymax=0.3, xmax=0.4)
      yield (
        0,
        {
          'photo': png(1),
          'captions': [{'text': 'one'}, {'text': 'two'}],
          'objects': [{'bbox': box, 'label': 4}],
        },
      )

  root = tmp_path_factory.mktemp('tfds')
  tfds.disable_progress_bar()
  for builder in (Blobs, Photographs):
    builder(data_dir=root, file_format='array_record').download_and_prepare()
  return root


def opened(root, name='blobs', split='train'):
  spec = DataSpec(f'tfds:{name}', 16, tfds_data_dir=str(root))
  return sources.open_source(spec, split)


class NoTensorFlow:
  """An import finder that fails the test for it."""

  @staticmethod
  def find_spec(name, path=None, target=None):
    assert name.split('.')[0] != 'tensorflow'


def test_tfds_reads_what_the_builder_wrote_without_tensorflow(
  prepared, monkeypatch
):
  monkeypatch.setattr(sys, 'meta_path', [NoTensorFlow, *sys.meta_path])
  source = opened(prepared)
  assert len(source) == 10 and len(opened(prepared, split='test')) == 3
  seen = set()
  for i in range(10):
    example = source[i]
    number = int(example['image'][0, 0, 0])
    assert example['image'].shape == (20, 24, 3)
    assert example['image'].dtype == np.uint8
    assert example['text'] == f'number {number}'
    assert example['label'] == number % 2
    seen.add(number)
  assert seen == set(range(10))


def test_tfds_knows_captions_and_boxes(prepared):
  example = opened(prepared, 'photographs')[0]
  assert example['text'] == ['one', 'two']
  np.testing.assert_allclose(example['boxes'], [[0.2, 0.1, 0.4, 0.3]])
  assert example['box_labels'].tolist() == [4]


def test_tfds_feeds_a_stream_and_can_be_sent_to_a_worker(prepared):
  source = pickle.loads(pickle.dumps(opened(prepared)))
  spec = DataSpec('tfds:blobs', 16)
  data = pipeline.train_stream(
    source, lambda example, rng: example, spec, batch_size=10, seed=0
  )
  batch = next(data)
  data.close()
  assert sorted(batch['example_id']) == list(range(10))
  assert batch['image'].shape == (10, 16, 16, 3)


def test_tfds_takes_part_of_a_split(prepared):
  assert len(opened(prepared, split='train[:30%]')) == 3


def test_tfds_images_that_are_broken_are_named(prepared, monkeypatch):
  source = opened(prepared)
  assert source.name(4) == 'tfds:blobs/train[4]'
  record = {**source._records[4], 'image': b'\x89PNG, not really'}
  monkeypatch.setattr(source, '_records', {4: record})
  with pytest.raises(images.BadImage):
    source[4]


def test_the_newest_version_is_found_unless_one_is_named(tmp_path):
  for version in ('1.2.0', '1.10.0', '1.9.9', 'incomplete.1.11.0', 'notes'):
    (tmp_path / 'birds' / version).mkdir(parents=True)
    (tmp_path / 'birds' / version / 'dataset_info.json').write_text('{}')
  (tmp_path / 'birds' / '2.0.0').mkdir()  # Without a dataset inside.
  root = str(tmp_path)
  assert sources.find_tfds('birds', root).endswith('birds/1.10.0')
  assert sources.find_tfds('birds:1.2.0', root).endswith('birds/1.2.0')
  with pytest.raises(UserError, match='birds:3.0.0 was not found'):
    sources.find_tfds('birds:3.0.0', root)


def test_one_configuration_is_found_and_several_are_listed(tmp_path):
  def prepare(config):
    folder = tmp_path / 'lsun' / config / '3.0.0'
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').write_text('{}')

  prepare('cat')
  assert sources.find_tfds('lsun', str(tmp_path)).endswith('lsun/cat/3.0.0')
  prepare('dog')
  with pytest.raises(UserError, match='tfds:lsun/cat .of cat, dog.'):
    sources.find_tfds('lsun', str(tmp_path))
  assert sources.find_tfds('lsun/dog', str(tmp_path)).endswith('dog/3.0.0')


def test_the_data_folder_of_the_environment_is_used(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  (tmp_path / 'birds' / '1.0.0').mkdir(parents=True)
  (tmp_path / 'birds' / '1.0.0' / 'dataset_info.json').write_text('{}')
  assert sources.find_tfds('birds') == str(tmp_path / 'birds' / '1.0.0')


def test_what_is_not_prepared_says_how_to_prepare_it(tmp_path):
  with pytest.raises(UserError, match="file_format='array_record'"):
    opened(tmp_path, 'cifar10')


def test_a_dataset_of_tfrecords_is_refused(prepared, tmp_path):
  shutil.copytree(prepared / 'blobs', tmp_path / 'blobs')
  path = tmp_path / 'blobs' / '1.0.0' / 'dataset_info.json'
  info = json.loads(path.read_text())
  path.write_text(json.dumps({**info, 'fileFormat': 'tfrecord'}))
  with pytest.raises(UserError, match='stored as tfrecord.*array_record'):
    opened(tmp_path)


@pytest.mark.parametrize('split', ['validation', 'train[:150%]'])
def test_a_split_that_is_not_there_is_refused(split, prepared):
  with pytest.raises(UserError, match='tfds:blobs has no'):
    opened(prepared, split=split)
