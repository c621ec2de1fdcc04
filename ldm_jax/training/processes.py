"""What the first process of several does alone while the others wait."""

import itertools
import json
from collections.abc import Callable
from typing import TypeVar

import jax
from jax._src import distributed

from ldm_jax.types import UserError

T = TypeVar('T')

_WAIT_MS = 10_000  # Between looks, so that Ctrl-C is noticed meanwhile.
_numbers = itertools.count()


def by_first(work: Callable[[], T]) -> T | None:
  """What `work` returns in process 0, which alone calls it; None in others.

  They wait for it, however long it takes: through JAX's coordinator and on no
  device, where a collective would give up, and before they exit, where process
  0 would be ended for lack of company. Every process calls this, in the same
  order.

  Raises:
    UserError, RuntimeError: in the others what `work` raised in process 0.
  """
  if jax.process_count() == 1:
    return work()
  # jax has no public door to its coordinator; orbax and flax use this one.
  client = distributed.global_state.client
  key = f'ldm_by_first/{next(_numbers)}'
  if jax.process_index():
    _wait(client, key)
    return None
  told = None
  try:
    return work()
  except BaseException as error:
    told = [isinstance(error, UserError), str(error) or type(error).__name__]
    raise
  finally:
    client.key_value_set(key, json.dumps(told))


def _wait(client, key: str) -> None:
  while True:
    try:
      told = json.loads(client.blocking_key_value_get(key, _WAIT_MS))
      break
    except jax.errors.JaxRuntimeError as error:
      # Anything else is that process 0 is gone.
      if 'DEADLINE_EXCEEDED' not in str(error):
        raise
  if told is not None:
    of_user, text = told
    raise (UserError if of_user else RuntimeError)(f'Process 0: {text}')
