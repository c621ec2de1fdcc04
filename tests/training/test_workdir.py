"""Tests for ldm_jax.training.workdir."""

import pytest

from ldm_jax.training import workdir
from ldm_jax.types import UserError

CONFIG = {
  'stage': 'diffusion',
  'first_stage': {'name': 'kl', 'multipliers': (1, 2, 4)},
  'unet': {'channels': 64, 'attention_levels': ()},
  'optim': {'learning_rate': 1e-4},
  'scale_factor': None,
}


def test_a_config_comes_back_with_its_tuples(tmp_path):
  workdir.write_config(tmp_path / 'new', CONFIG)
  assert workdir.read_config(tmp_path / 'new') == CONFIG
  assert [p.name for p in (tmp_path / 'new').iterdir()] == ['config.json']


def test_no_config_says_which_folder(tmp_path):
  with pytest.raises(UserError, match='config.json does not exist'):
    workdir.read_config(tmp_path)


def test_a_torn_config_names_the_file(tmp_path):
  (tmp_path / 'config.json').write_text('{"a": ')
  with pytest.raises(UserError, match='config.json is not valid JSON'):
    workdir.read_config(tmp_path)


def test_the_same_model_may_train_differently():
  workdir.compare(CONFIG, {**CONFIG, 'optim': {'learning_rate': 1}}, 'Another.')


def test_another_model_is_refused_with_every_difference():
  other = {
    **CONFIG,
    'first_stage': {'name': 'kl', 'multipliers': (1, 2)},
    'unet': {'channels': 32, 'attention_levels': (), 'head_width': 8},
  }
  with pytest.raises(UserError) as error:
    workdir.compare(CONFIG, other, 'Another.')
  lines = str(error.value).splitlines()
  assert lines[0] == 'Another. What differs:'
  assert lines[1:] == [
    '  first_stage.multipliers: (1, 2, 4) there, (1, 2) here',
    '  unet.channels: 64 there, 32 here',
    '  unet.head_width: nothing there, 8 here',
  ]


def test_how_a_model_is_computed_and_trained_may_differ():
  unet = CONFIG['unet'] | {'remat': True, 'dropout': 0.1, 'head_width': None}
  workdir.compare(CONFIG, {**CONFIG, 'unet': unet}, 'Another.')


def test_a_config_that_is_no_object_names_the_file(tmp_path):
  (tmp_path / 'config.json').write_text('[1, 2]')
  with pytest.raises(UserError, match='config.json holds no config'):
    workdir.read_config(tmp_path)


@pytest.mark.parametrize('name', ['metrics.jsonl', 'samples', 'log.txt.1'])
def test_a_folder_of_something_else_is_no_workdir(tmp_path, name):
  (tmp_path / 'notes.txt').write_text('mine')
  (tmp_path / 'log.txt').write_text('of a run that ended before it began')
  workdir.check_usable(tmp_path)
  (tmp_path / name).mkdir()
  with pytest.raises(UserError, match=f'holds {name!r} and no config.json'):
    workdir.check_usable(tmp_path)
  workdir.write_config(tmp_path, CONFIG)
  workdir.check_usable(tmp_path)


def test_a_place_that_cannot_be_written_is_told(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  for path in (tmp_path / 'file', tmp_path / 'file' / 'run'):
    with pytest.raises(UserError, match='--workdir=.*file'):
      workdir.check_usable(path)
  workdir.check_usable(tmp_path / 'new' / 'run')
  assert not (tmp_path / 'new').exists()
  monkeypatch.setattr('os.access', lambda path, mode: False)
  with pytest.raises(UserError, match='cannot be written'):
    workdir.check_usable(tmp_path / 'new' / 'run')


def test_a_bucket_is_mounted_first(tmp_path, monkeypatch):
  """To pathlib it would be a folder here by the name of gs:."""
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match='gs://bucket/run is no folder.*gcsfuse'):
    workdir.check_usable('gs://bucket/run')
  assert not list(tmp_path.iterdir())


def test_a_tokenizer_in_the_workdir_moves_with_it(tmp_path):
  task = {'name': 'text', 'vocab_file': 'tokenizer/vocab.txt'}
  workdir.write_config(tmp_path / 'here', {'task': task})
  assert workdir.read_config(tmp_path / 'here')['task'] == task
  (tmp_path / 'here' / 'tokenizer').mkdir()
  (tmp_path / 'here' / 'tokenizer' / 'vocab.txt').write_text('[PAD]')
  there = (tmp_path / 'here').rename(tmp_path / 'there')
  found = workdir.read_config(there)['task']['vocab_file']
  assert found == str(there / 'tokenizer' / 'vocab.txt')


def test_a_file_is_no_workdir(tmp_path):
  (tmp_path / 'notes.txt').write_text('{}')
  with pytest.raises(UserError, match='notes.txt the workdir of a run'):
    workdir.read_config(tmp_path / 'notes.txt')
