"""What conditioners of tokens tell, whatever the task."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.tasks import tokens

READER = tokens.TokenConditioner(16, 1, vocab_size=9, length=6, dropout=0.5)
BATCH = {'tokens': jnp.array([[1, 2, 3, 4], [2, 1, 3, 4]])}


def test_context_is_of_tokens_in_their_order_and_dropped_only_in_training():
  variables = READER.init(jax.random.key(0), BATCH, None, False)
  assert set(variables['params']) == {'transformer'}
  told = READER.apply(variables, BATCH, None, False)
  assert told.context.shape == (2, 4, 16)
  assert told.concat is None and told.vector is None
  assert np.abs(told.context[0, 2] - told.context[1, 2]).max() > 1e-3
  one, other = (
    READER.apply(
      variables, BATCH, None, True, rngs={'dropout': jax.random.key(i)}
    ).context
    for i in range(2)
  )
  assert np.abs(one - other).max() > 1e-3


def test_an_empty_prompt_is_start_end_and_padding_and_keeps_the_rest():
  batch = tokens.with_empty_prompt(BATCH | {'mask': 1}, (7, 8, 0))
  assert batch['tokens'].tolist() == [[7, 8, 0, 0]] * 2
  assert batch['mask'] == 1
