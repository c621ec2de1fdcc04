"""Tests for ldm_jax.interop.folder_files; see also test_diffusers."""

import json

import pytest

from ldm_jax.data.tokenize import ClipPieces
from ldm_jax.interop import folder_files
from ldm_jax.types import UserError
from tests import clip_vocabulary

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'red', 'ré']


def tokenizer_json(vocabulary):
  return json.dumps({'model': {'type': 'WordPiece', 'vocab': vocabulary}})


def test_word_pieces_from_either_file(tmp_path):
  assert folder_files.word_pieces(str(tmp_path)) == (None, {})
  shuffled = {word: i for i, word in reversed(list(enumerate(WORDS)))}
  (tmp_path / 'tokenizer.json').write_text(tokenizer_json(shuffled))
  expected = '\n'.join([*WORDS, '']).encode()
  found = folder_files.word_pieces(str(tmp_path))
  assert found == ((2, 3, 0), {'vocab.txt': expected})
  (tmp_path / 'vocab.txt').write_bytes(expected)
  assert folder_files.word_pieces(str(tmp_path)) == found


@pytest.mark.parametrize(
  ('content', 'named'),
  [
    ('{', 'not valid JSON'),
    ('[' * 100_000, 'not valid JSON'),
    ('{"model": 3}', 'no vocabulary'),
    (tokenizer_json({'[PAD]': 'first'}), 'no vocabulary'),
    (tokenizer_json({'[PAD]': 0, '[CLS]': 7}), 'gaps'),
    (tokenizer_json({'a': 0, 'b': 1}), r'lacks \[CLS\], \[SEP\] or \[PAD\]'),
  ],
)
def test_broken_vocabularies_are_named(tmp_path, content, named):
  (tmp_path / 'tokenizer.json').write_text(content)
  with pytest.raises(UserError, match=named):
    folder_files.word_pieces(str(tmp_path))


def test_byte_pairs(tmp_path):
  last = folder_files.byte_pairs(str(tmp_path), 49408)
  assert last == ((49406, 49407, 49407), {})
  clip_vocabulary.write(tmp_path)
  start, end = clip_vocabulary.START, clip_vocabulary.END
  special, files = folder_files.byte_pairs(str(tmp_path), 49408)
  assert special == (start, end, end)
  assert set(files) == {'vocab.json', 'merges.txt'}
  # Some pad with another word, written as a string or as a token.
  token = {'__type': 'AddedToken', 'content': '!', 'special': True}
  for pad in ('!', token):
    settings = tmp_path / 'tokenizer_config.json'
    settings.write_text(json.dumps({'pad_token': pad}))
    special, _ = folder_files.byte_pairs(str(tmp_path), 49408)
    assert special == (start, end, 0)
  # The older file wins, as transformers has it, and prompts are padded so.
  old = tmp_path / 'special_tokens_map.json'
  old.write_text(json.dumps({'pad_token': '"'}))
  special, files = folder_files.byte_pairs(str(tmp_path), 49408)
  assert special == (start, end, 1) and old.name in files
  assert ClipPieces(tmp_path, 4).empty().tolist() == [start, end, 1, 1]


def test_learned_words_of_older_tokenizers_come_along(tmp_path):
  clip_vocabulary.write(tmp_path)
  added = {'<cat-toy>': clip_vocabulary.SIZE}
  (tmp_path / 'added_tokens.json').write_text(json.dumps(added))
  _, files = folder_files.byte_pairs(str(tmp_path), 49408)
  assert json.loads(files['added_tokens.json']) == added
  ids = ClipPieces(tmp_path, 5)('red <cat-toy>')
  assert ids.tolist()[:4] == [
    clip_vocabulary.START, 513, clip_vocabulary.SIZE, clip_vocabulary.END,
  ]  # fmt: skip


def test_a_tokenizer_that_is_none_is_named(tmp_path):
  (tmp_path / 'tokenizer_config.json').write_text('{}')
  with pytest.raises(UserError, match='holds no CLIP tokenizer'):
    folder_files.byte_pairs(str(tmp_path), 49408)


def test_files_that_are_not_there_or_too_large(tmp_path, monkeypatch):
  with pytest.raises(UserError, match='nothing.json: No such file'):
    folder_files.read_json(str(tmp_path / 'nothing.json'))
  monkeypatch.setattr(folder_files, '_LARGEST_JSON', 10)
  (tmp_path / 'big.json').write_text('"01234567890"')
  with pytest.raises(UserError, match='big.json is over 10 bytes'):
    folder_files.read_json(str(tmp_path / 'big.json'))


def test_a_folder_without_weights(tmp_path):
  with pytest.raises(UserError, match='holds no weights'):
    folder_files.read_weights(str(tmp_path))
  with pytest.raises(UserError, match='holds no weights'):
    folder_files.read_weights(str(tmp_path / 'absent'))


@pytest.mark.parametrize('content', ['{}', '[]', '{"weight_map": []}'])
def test_an_index_that_lists_nothing(tmp_path, content):
  (tmp_path / 'model.safetensors.index.json').write_text(content)
  with pytest.raises(UserError, match='lists no files'):
    folder_files.read_weights(str(tmp_path))
