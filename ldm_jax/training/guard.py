"""Bad numbers: a step whose loss or gradient is not finite changes nothing.

`guarded` wraps a step function, and the loop calls
`BadSteps.add(step, metrics, example_ids)`. On request, a step whose gradient
is far larger than they have been changes nothing either.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from ldm_jax.types import Array, UserError

State = TypeVar('State')

# Of the running mean of gradient norms, and the steps before it is believed.
_DECAY, _LEARNING = 0.99, 100


@dataclasses.dataclass(frozen=True)
class GuardSpec:
  """When a run protects itself; the config's `guard` section.

  Attributes:
    max_bad_steps: steps in a row without finite numbers that end the run.
    spike_limit: a step is skipped where a gradient's norm is more than this
      many times its running mean; 0: never. In the first 100 steps none is.
    watchdog_minutes: without progress, after which a run says where it hangs
      and ends; 0: never. Four times as long until the first step is done,
      since compiling is no progress.
  """

  max_bad_steps: int = 10
  spike_limit: float = 0.0
  watchdog_minutes: float = 30.0

  def __post_init__(self):
    if self.max_bad_steps < 1:
      raise UserError(
        f'guard.max_bad_steps={self.max_bad_steps} must be at least 1.'
      )
    if self.spike_limit != 0 and not self.spike_limit > 1:
      raise UserError(
        f'guard.spike_limit={self.spike_limit} must be above 1, or 0 for none.'
      )
    if not self.watchdog_minutes >= 0:
      raise UserError(
        f'guard.watchdog_minutes={self.watchdog_minutes} must be 0 (none) or '
        'more.'
      )


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


def take(
  state: State, update: Callable[[State], State], metrics: Mapping[str, Array]
) -> tuple[State, Mapping[str, Array]]:
  """The end of a step function: update(state), whatever its numbers are."""
  return update(state), metrics


def guarded(step: Callable, spike_limit: float = 0.0) -> Callable:
  """A step function that changes nothing where its numbers are no good.

  It calls `step` with a `take` that updates only then. Of the metrics it needs
  `loss` and `grad_norm`, and `disc_grad_norm` where there is a second network:
  a gradient that is not finite shows in its norm. The step is counted all the
  same: it belongs to the data, and the batch is gone. With a spike_limit the
  state's `watch` must be what `watch` makes.
  """

  def guarded_step(state, frozen, batch, rng):
    return step(state, frozen, batch, rng, take=take_if_good)

  def take_if_good(state, update, metrics):
    watched = ('loss', 'grad_norm', 'disc_grad_norm')
    good = finite = all_finite({k: metrics[k] for k in watched if k in metrics})
    metrics = {**metrics, 'skipped': 1.0 - finite.astype(jnp.float32)}
    if spike_limit:
      spiked, seen = _spiked(state.watch, metrics['grad_norm'], spike_limit)
      good = finite & ~spiked
      metrics['spiked'] = (finite & spiked).astype(jnp.float32)
      # What was seen counts even where the step does not: gradients that grow
      # for good are believed after a while.
      seen = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), seen, state.watch
      )
    state = _updated_if(good, update, state)
    return state.replace(watch=seen) if spike_limit else state, metrics

  return guarded_step


def _updated_if(good: Array, update: Callable, state: State) -> State:
  """update(state), or `state` bit for bit, but one step on."""
  if jax.default_backend() == 'gpu':  # Where a branch waits for the host.
    new = update(state)
    keep = lambda new, old: jnp.where(good, new, old)
    return jax.tree.map(keep, new, state).replace(step=new.step)
  # A select would have XLA copy the old state; a branch works in place.
  keep = lambda state: state.replace(step=state.step + 1)
  return jax.lax.cond(good, update, keep, state)


def watch(spike_limit: float) -> dict[str, np.generic]:
  """What a state remembers of earlier gradients; nothing without a limit."""
  if not spike_limit:
    return {}
  return {'mean': np.float32(0.0), 'count': np.int32(0)}


def _spiked(seen: dict, norm: Array, limit: float) -> tuple[Array, dict]:
  """(whether norm is a spike, the memory after it)."""
  known = seen['count'] >= _LEARNING
  highest = limit * seen['mean']
  spiked = known & (norm > highest)
  # A plain mean while there are few, then a running one; a spike counts for no
  # more than the limit.
  share = jnp.maximum(1.0 / (seen['count'] + 1.0), 1.0 - _DECAY)
  counted = jnp.where(known, jnp.minimum(norm, highest), norm)
  mean = seen['mean'] + share * (counted - seen['mean'])
  return spiked, {'mean': mean, 'count': seen['count'] + 1}


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
    self,
    step: int,
    metrics: Mapping[str, Array],
    example_ids: Sequence[int] | np.ndarray,
  ) -> None:
    """Notes one step; raises TooManyBadSteps when the limit is reached."""
    bad = {k: metrics[k] for k in ('skipped', 'spiked') if k in metrics}
    self._pending.append((step, bad, example_ids))
    while len(self._pending) > self._lag:
      self._look()

  def flush(self) -> None:
    """Looks at the steps that were not looked at yet."""
    while self._pending:
      self._look()

  def _look(self):
    step, bad, example_ids = self._pending.popleft()
    if float(bad.get('spiked', 0.0)):
      logging.warning(
        'Step %d was skipped: its gradient is far larger than they have been '
        '(guard.spike_limit). Its examples: %s',
        step,
        np.asarray(example_ids).tolist(),
      )
    if not float(bad['skipped']):
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
