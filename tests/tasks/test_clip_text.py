"""Tests for ldm_jax.tasks.clip_text, and for CLIP's tokenizer under it."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.data.tokenize import ClipPieces
from ldm_jax.tasks.clip_text import ClipText, Prepare
from ldm_jax.types import UserError
from tests import clip_vocabulary
from tests.clip_vocabulary import END, SIZE, START

TINY = ClipText(
  width=16,
  depth=2,
  num_heads=2,
  vocab_size=SIZE,
  length=8,
  special_tokens=(START, END, END),
)
TOKENS = jnp.asarray([[START, 5, 6, 7, END, END, END, END]])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return clip_vocabulary.write(tmp_path_factory.mktemp('clip'))


@pytest.fixture(scope='module')
def params():
  params = TINY.init(jax.random.key(0), {'tokens': TOKENS}, None, False)
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  noisy = [x + jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]
  return jax.tree.unflatten(tree, noisy)


def context(params, tokens, model=TINY):
  return model.apply(params, {'tokens': tokens}, None, False).context


def test_the_null_is_the_empty_prompt(folder):
  null = TINY.null({'tokens': TOKENS})['tokens']
  np.testing.assert_array_equal(null[0], ClipPieces(folder, 8).empty())


def test_the_defaults_have_stable_diffusion_s_count():
  encoder = ClipText()
  batch = {'tokens': np.zeros((1, 77), np.int32)}
  shapes = jax.eval_shape(
    lambda: encoder.init(jax.random.key(0), batch, None, False)
  )
  # Tokens, positions; twelve layers of norms, attention, feed-forward; a norm.
  layer = 4 * 768 + 4 * 768 * 769 + 769 * 3072 + 3073 * 768
  expected = (49408 + 77) * 768 + 12 * layer + 2 * 768
  assert sum(x.size for x in jax.tree.leaves(shapes)) == expected == 123060480


def test_a_frozen_encoder_passes_no_gradient(params):
  def total(params, frozen):
    return context(params, TOKENS, TINY.clone(frozen=frozen)).sum() ** 2

  largest = lambda tree: max(jnp.abs(x).max() for x in jax.tree.leaves(tree))
  assert largest(jax.grad(total)(params, True)) == 0
  assert largest(jax.grad(total)(params, False)) > 0


def test_an_unknown_activation_is_named(params):
  with pytest.raises(UserError, match="activation='relu'"):
    context(params, TOKENS, TINY.clone(activation='relu'))


def test_prompts_become_byte_pairs(folder):
  prepare = Prepare(vocab_size=SIZE, length=8, vocab_file=str(folder))
  tokens = prepare.arrays({'text': ['A RED', 'red ' * 9]})['tokens']
  a, red = 256 + ord('a') - 33, 513  # 'a</w>', 're d</w>'
  np.testing.assert_array_equal(
    tokens, [[START, a, red, *5 * [END]], [START, *6 * [red], END]]
  )
  assert tokens.dtype == np.int32
  example = {'text': 'red', 'image': np.zeros((2, 2, 3))}
  made = pickle.loads(pickle.dumps(prepare))(example, None)
  np.testing.assert_array_equal(made['tokens'][:3], [START, red, END])


def test_mistakes_are_named(tmp_path):
  with pytest.raises(UserError, match=r'task\.vocab_file'):
    Prepare().arrays({'text': ['a']})
  with pytest.raises(UserError, match=r'vocab\.json'):
    ClipPieces(tmp_path)
  (tmp_path / 'vocab.json').write_text('{')
  (tmp_path / 'merges.txt').write_text('')
  with pytest.raises(UserError, match='cannot be read'):
    ClipPieces(tmp_path)
  with pytest.raises(UserError, match='length=1'):
    ClipPieces(tmp_path, 1)
