"""Text: strings or tokens, one of several captions, the empty prompt."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.tasks.text import Prepare, Text
from ldm_jax.types import UserError

SCENES = Prepare(39, 16, 'scenes', (2, 3, 0))


def test_the_null_is_the_tokens_of_the_empty_prompt():
  text = Text(
    width=8, depth=1, vocab_size=39, length=16, special_tokens=(2, 3, 0)
  )
  tokens = SCENES.arrays({'text': ['a red circle', 'a blue ring']})['tokens']
  null = text.null({'tokens': jnp.asarray(tokens)})['tokens']
  np.testing.assert_array_equal(
    null, SCENES.arrays({'text': ['', '']})['tokens']
  )


def test_one_of_several_captions_is_drawn():
  captions = ['a red circle', 'a blue ring']
  example = {'image': np.zeros((2, 2, 3)), 'text': captions}
  both = SCENES.arrays({'text': captions})['tokens'].tolist()
  drawn = {
    tuple(SCENES(example, np.random.default_rng(i))['tokens'])
    for i in range(20)
  }
  assert drawn == {tuple(tokens) for tokens in both}


@pytest.mark.parametrize('tokens', [[[39]], [[-1]], [[0] * 17]])
def test_impossible_tokens_are_refused(tokens):
  with pytest.raises(UserError, match='must be at most 16 long'):
    SCENES.arrays({'tokens': tokens})


def test_without_a_tokenizer_strings_are_refused_and_tokens_are_not():
  prepare = Prepare()
  with pytest.raises(UserError, match='set task.vocab_file'):
    prepare.arrays({'text': 'a red circle'})
  assert prepare.arrays({'tokens': [[101, 102]]})['tokens'].shape == (1, 2)
