"""Tokenizers and CLIP's config, from beside a checkpoint."""

import json

import pytest

from ldm_jax.interop import compvis, compvis_config, compvis_text
from ldm_jax.types import UserError
from tests import clip_vocabulary
from tests.interop import released, states

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'red', 'circle']


def text():
  return compvis_config.read(released.tiny(released.text()))


def stable_diffusion():
  content = released.tiny(released.stable_diffusion())
  read = compvis_config.read(content)
  return compvis.with_clip_sizes(read, states.random_state(content))


@pytest.mark.parametrize('inside', ['.', 'tokenizer'])
def test_word_pieces_are_kept_with_the_run(tmp_path, inside):
  (tmp_path / inside).mkdir(exist_ok=True)
  words = '\n'.join(WORDS) + '\n'
  (tmp_path / inside / 'vocab.txt').write_text(words)
  read, found = compvis_text.with_local_files(text(), [str(tmp_path)])
  assert found == {'tokenizer/vocab.txt': words.encode()}
  task = read.config['task']
  assert task['vocab_file'] == 'tokenizer/vocab.txt'
  assert task['special_tokens'] == (2, 3, 0)
  assert not read.notes


def test_without_any_there_is_a_note(tmp_path):
  read, found = compvis_text.with_local_files(text(), [str(tmp_path / 'no')])
  assert not found and 'vocab_file' not in read.config['task']
  assert any('--tokenizer' in note for note in read.notes)


def test_a_vocabulary_larger_than_the_encoders_is_refused(tmp_path):
  words = [*WORDS, *map(str, range(200))]
  (tmp_path / 'vocab.txt').write_text('\n'.join(words) + '\n')
  with pytest.raises(UserError, match='up to 206.*knows 120'):
    compvis_text.with_local_files(text(), [str(tmp_path)])
  clip_vocabulary.write(tmp_path)
  with pytest.raises(UserError, match='up to 517.*knows 120'):
    compvis_text.with_local_files(stable_diffusion(), [str(tmp_path)])


def test_clips_heads_are_in_its_config(tmp_path):
  values = {
    'hidden_size': 24, 'num_attention_heads': 3, 'num_hidden_layers': 2,
    'hidden_act': 'gelu',
  }  # fmt: skip
  for content in (values, {'text_config': values, 'model_type': 'clip'}):
    (tmp_path / 'config.json').write_text(json.dumps(content))
    read, _ = compvis_text.with_local_files(stable_diffusion(), [str(tmp_path)])
    assert read.config['task']['num_heads'] == 3
    assert read.config['task']['activation'] == 'gelu'


def test_other_tasks_need_nothing(tmp_path):
  read = compvis_config.read(released.layout())
  assert compvis_text.with_local_files(read, [str(tmp_path)]) == (read, {})
