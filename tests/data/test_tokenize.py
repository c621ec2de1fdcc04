"""Tests for ldm_jax.data.tokenize."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from ldm_jax.data import scene_captions, tokenize
from ldm_jax.data.scenes import Scenes, held_out_captions
from ldm_jax.data.tokenize import WordPieces
from ldm_jax.types import UserError
from tests import clip_vocabulary

# As in BERT: unused rows stand between [PAD] and the other special tokens.
BERT = (
  '[PAD]', '[unused0]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '!',
  'cat', 'play', '##ing', '##s', 'resume', '\u6f22',
)  # fmt: skip


@pytest.fixture(scope='module')
def bert_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('vocab') / 'vocab.txt'
  path.write_text('\n'.join(BERT) + '\n', encoding='utf-8')
  return path


@pytest.fixture(scope='module')
def bert(bert_file):
  return WordPieces(bert_file, length=8)


def spell(ids):
  return [BERT[i] for i in ids if BERT[i] != '[PAD]']


def test_pieces_are_bert_s(bert):
  assert spell(bert('Cats PLAYING!')) == [
    '[CLS]', 'cat', '##s', 'play', '##ing', '!', '[SEP]',
  ]  # fmt: skip


def test_accents_go_and_chinese_is_split_and_the_unspeakable_is_unk(bert):
  assert spell(bert('R\xe9sum\xe9 \u6f22\u6f22 dog')) == [
    '[CLS]', 'resume', '\u6f22', '\u6f22', '[UNK]', '[SEP]',
  ]  # fmt: skip
  assert bert.unknown('cats dog R\xe9sum\xe9 Wolf') == ['dog', 'Wolf']


def test_padding_is_zero_after_the_text(bert):
  ids = bert('cat')
  assert ids.dtype == np.int32
  np.testing.assert_array_equal(ids, [3, 7, 4, 0, 0, 0, 0, 0])


def test_a_long_text_keeps_its_last_sep(bert):
  ids = bert('cat ' * 50)
  np.testing.assert_array_equal(ids, [3, *6 * [7], 4])


def test_the_empty_prompt_is_cls_sep_pad(bert):
  np.testing.assert_array_equal(bert.empty(), [3, 4, 0, 0, 0, 0, 0, 0])


def test_a_list_gives_the_rows_of_its_texts(bert):
  texts = ['cat', '', 'cats playing cats playing']
  np.testing.assert_array_equal(bert(texts), [bert(text) for text in texts])
  assert bert([]).shape == (0, 8)


def test_the_vocabulary_is_read_line_by_line(bert):
  assert bert.vocab_size == len(BERT)


def test_windows_line_ends_change_nothing(bert, tmp_path):
  path = tmp_path / 'vocab.txt'
  path.write_bytes('\r\n'.join(BERT).encode())
  np.testing.assert_array_equal(
    WordPieces(path, 8)('cats playing'), bert('cats playing')
  )


def test_the_shipped_vocabulary_spells_every_caption_and_nothing_is_cut():
  tokenizer = WordPieces('scenes', length=40)
  source = Scenes(300, max_objects=3, split='test')
  longest = [scene_captions.Thing('red', 'ring', 'top left')] * 3
  captions = [
    *scene_captions.all_captions(),
    *held_out_captions(),
    *(source.caption(index) for index in range(300)),
    scene_captions.caption(longest, template=1),
  ]
  ids = tokenizer(captions)
  assert not np.any(ids == tokenizer.vocab['[UNK]'])
  assert not np.any(ids[:, -1])
  assert len(np.unique(ids[: 8 * 5 * 9 * 5], axis=0)) == 8 * 5 * 9 * 5


def test_captions_of_one_thing_fit_in_twelve_tokens():
  ids = WordPieces('scenes', length=13)(scene_captions.all_captions())
  assert not np.any(ids[:, 12:])


def test_the_shipped_special_tokens_come_first_in_bert_s_order():
  vocab = WordPieces('scenes').vocab
  assert [vocab[token] for token in tokenize.SPECIAL] == [0, 1, 2, 3, 4]


def test_a_worker_unpickles_it_without_transformers(bert):
  program = (
    'import pickle, sys\n'
    'ids = pickle.load(sys.stdin.buffer)("cats").tolist()\n'
    'assert ids == [3, 7, 10, 4, 0, 0, 0, 0], ids\n'
    'assert not {"transformers", "torch", "tensorflow"} & set(sys.modules)'
  )
  subprocess.run(
    [sys.executable, '-c', program], input=pickle.dumps(bert), check=True
  )


def test_mistakes_are_named(tmp_path):
  with pytest.raises(UserError, match=r'config\.task\.vocab_file'):
    WordPieces(None)
  with pytest.raises(UserError, match='no_such_file'):
    WordPieces(tmp_path / 'no_such_file')
  with pytest.raises(UserError, match='length=1'):
    WordPieces('scenes', length=1)
  binary = tmp_path / 'binary'
  binary.write_bytes(b'\xff\xfe\x00')
  with pytest.raises(UserError, match='binary'):
    WordPieces(binary)
  words = tmp_path / 'words.txt'
  words.write_text('[PAD]\n[UNK]\n[MASK]\nred\n')
  with pytest.raises(UserError, match=r'lacks \[CLS\], \[SEP\]'):
    WordPieces(words)


def test_a_task_s_files_are_those_that_it_names(bert_file, tmp_path):
  files_of = lambda name, file: tokenize.files_of(
    {'name': name, 'vocab_file': file}
  )
  assert tokenize.files_of({'name': 'unconditional'}) == {}
  assert files_of('text', None) == {}
  assert files_of('text', str(bert_file)) == {
    'vocab.txt': bert_file.read_bytes()
  }
  assert files_of('text', 'scenes')['vocab.txt'].startswith(b'[PAD]')
  folder = clip_vocabulary.write(tmp_path / 'clip')
  (folder / 'private').write_text('no file of a tokenizer')
  assert set(files_of('clip_text', folder)) == {'vocab.json', 'merges.txt'}
  with pytest.raises(UserError, match='no_such_file'):
    files_of('text', tmp_path / 'no_such_file')
