"""Bad numbers: a step whose loss or gradient is not finite changes nothing.

`guarded` wraps a step function, and the loop calls
`BadSteps.add(step, metrics['skipped'], example_ids)`.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from ldm_jax.types import Array

State = TypeVar('State')


class TooManyBadSteps(RuntimeError):
  """So many skipped steps in a row that training is going nowhere."""


def all_finite(*trees: Any) -> Array:
  """Whether every number in the pytrees is finite: a boolean scalar."""
  leaves = [
    jnp.isfinite(leaf).all()
    for leaf in jax.tree.leaves(trees)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  ]
  return jnp.stack(leaves).all() if leaves else jnp.bool_(True)


def skip_nonfinite(old_state: State, new_state: State, finite: Array) -> State:
  """`new_state` if `finite`, else `old_state` bit for bit, but one step on.

  Both are flax structs with a `step`. The step is counted all the same: it
  belongs to the data, and the batch is gone. (A select and not lax.cond, which
  would keep XLA from fusing it into the update.)
  """
  state = jax.tree.map(
    lambda new, old: jnp.where(finite, new, old), new_state, old_state
  )
  return state.replace(step=new_state.step)


def guarded(step: Callable) -> Callable:
  """A step function that keeps the old state where the new one is no good.

  A gradient that is not finite shows in its norm: `step` must report `loss`
  and `grad_norm`, and `disc_grad_norm` where there is a second network.
  """

  def guarded_step(state, frozen, batch, rng):
    new_state, metrics = step(state, frozen, batch, rng)
    watched = ('loss', 'grad_norm', 'disc_grad_norm')
    finite = all_finite({k: metrics[k] for k in watched if k in metrics})
    skipped = 1.0 - finite.astype(jnp.float32)
    new_state = skip_nonfinite(state, new_state, finite)
    return new_state, {**metrics, 'skipped': skipped}

  return guarded_step


class BadSteps:
  """Counts skipped steps without making the devices wait for the host."""

  def __init__(self, limit: int = 10, lag: int = 2):
    """Gives up after `limit` in a row; looks at a step `lag` steps later."""
    self.total = 0
    self._limit = limit
    self._lag = lag
    self._in_a_row = 0
    self._pending = collections.deque()

  def add(
    self, step: int, skipped: Array, example_ids: Sequence[int] | np.ndarray
  ) -> None:
    """Notes one step; raises TooManyBadSteps when the limit is reached."""
    self._pending.append((step, skipped, example_ids))
    while len(self._pending) > self._lag:
      self._look()

  def flush(self) -> None:
    """Looks at the steps that were not looked at yet."""
    while self._pending:
      self._look()

  def _look(self):
    step, skipped, example_ids = self._pending.popleft()
    if not float(skipped):
      self._in_a_row = 0
      return
    self.total += 1
    self._in_a_row += 1
    logging.warning(
      'Step %d was skipped: its loss or gradient is not finite (%d in a row, '
      '%d in all). Its examples: %s',
      step,
      self._in_a_row,
      self.total,
      np.asarray(example_ids).tolist(),
    )
    if self._in_a_row >= self._limit:
      raise TooManyBadSteps(
        f'{self._in_a_row} steps in a row, up to step {step}, had a loss or '
        'gradient that is not finite. Nothing of them was kept, and the last '
        'checkpoint is intact. Lower optim.learning_rate, set '
        'optim.clip_norm, or look at the examples named above.'
      )
