"""Tests for ldm_jax.training.guard."""

import logging

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.training import guard
from ldm_jax.types import UserError


@flax.struct.dataclass
class State:
  step: jax.Array
  params: dict
  opt_state: object
  watch: dict = flax.struct.field(default_factory=dict)


TX = optax.adamw(0.1)


def start():
  params = {'w': jnp.array([1.0, -0.0, 1e-40]), 'half': jnp.bfloat16(3)}
  return State(jnp.int32(0), params, TX.init(params))


def adam_step(state, frozen, scale, rng, take=guard.take):
  del frozen, rng

  def loss_fn(params):
    return scale * jnp.sum(jnp.square(params['w'])) + params['half']

  loss, grads = jax.value_and_grad(loss_fn)(state.params)

  def update(state):
    updates, opt_state = TX.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(state.step + 1, params, opt_state)

  metrics = {'loss': loss, 'grad_norm': optax.tree.norm(grads)}
  return take(state, update, metrics)


@jax.jit
def train_step(state, scale):
  state, metrics = guard.guarded(adam_step)(state, None, scale, None)
  return state, metrics['skipped']


def bits(state):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
@pytest.mark.parametrize('bad', [jnp.nan, jnp.inf, -jnp.inf, 3e38])
def test_a_bad_step_changes_nothing_but_the_count(bad, backend, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  train_step.clear_cache()
  state, _ = train_step(start(), 1.0)
  after, skipped = train_step(state, bad * 10)
  assert skipped == 1 and after.step == state.step + 1
  assert bits(after.replace(step=state.step)) == bits(state)


def test_a_good_step_is_the_step():
  state = start()
  after, skipped = train_step(state, 1.0)
  assert skipped == 0 and bits(after.params) != bits(state.params)
  assert after.opt_state[0].count == 1


def test_a_good_step_is_what_it_is_without_the_guard():
  for state in (start(), train_step(start(), 1.0)[0]):
    plain, _ = jax.jit(adam_step)(state, None, 1.5, None)
    guarded, skipped = train_step(state, 1.5)
    assert not skipped
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(guarded)):
      np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=1e-6)


def test_a_run_with_a_bad_batch_is_the_run_without_it():
  clean = dirty = start()
  for scale in (1.0, 2.0, 0.5):
    clean, _ = train_step(clean, scale)
  for scale in (1.0, jnp.nan, 2.0, 0.5):
    dirty, _ = train_step(dirty, scale)
  assert bits(dirty.replace(step=clean.step)) == bits(clean)


def test_finite_looks_at_every_leaf_and_only_at_floats():
  good = {'a': jnp.ones(3), 'count': jnp.int32(2**31 - 1), 'b': jnp.zeros(())}
  assert guard.all_finite(good)
  assert guard.all_finite({'count': jnp.int32(1)}) and guard.all_finite({})
  for value in (jnp.nan, jnp.inf):
    assert not guard.all_finite(good, {'c': jnp.array([0.0, value])})
  assert not guard.all_finite(jnp.bfloat16(jnp.inf))


def test_bad_steps_name_their_examples_and_end_the_run(caplog):
  bad = guard.BadSteps(limit=3, lag=1)
  flags = [0, 1, 1, 0, 1, 1, 1]
  for step, flag in enumerate(flags):
    metrics = {'skipped': jnp.float32(flag), 'loss': jnp.float32(0)}
    bad.add(step, metrics, np.array([step * 10, step * 10 + 1]))
  assert bad.total == 4  # The last one has not been looked at.
  with pytest.raises(guard.TooManyBadSteps, match='3 steps in a row.*step 6'):
    bad.flush()
  warnings = [
    r.getMessage() for r in caplog.records if r.levelno == logging.WARNING
  ]
  assert len(warnings) == 5
  assert 'Step 1 ' in warnings[0] and '[10, 11]' in warnings[0]


def test_good_steps_in_between_are_no_reason_to_stop():
  bad = guard.BadSteps(limit=2)
  for step in range(20):
    bad.add(step, {'skipped': jnp.float32(step % 2)}, [])
  bad.flush()
  assert bad.total == 10


# Spikes.


def norms_step(state, frozen, batch, rng, take=guard.take):
  """Moves by the norm that the batch says its gradient had."""
  del frozen, rng
  moved = lambda state: state.replace(
    step=state.step + 1, params=jax.tree.map(lambda x: x + 1, state.params)
  )
  return take(state, moved, {'loss': batch, 'grad_norm': batch})


def spiked_steps(norms, limit=10.0):
  step = jax.jit(guard.guarded(norms_step, limit))
  state = start().replace(watch=guard.watch(limit))
  found = []
  for i, norm in enumerate(norms):
    before = bits(state.params)
    state, metrics = step(state, None, jnp.float32(norm), None)
    skipped = bits(state.params) == before
    assert skipped == bool(metrics['spiked'] or metrics['skipped'])
    if skipped:
      found.append(i)
  return found, state


def test_a_gradient_far_above_its_mean_changes_nothing():
  norms = [1.0, 3.0] * 60
  norms[20] = norms[110] = 100.0  # The first is before the guard has learnt.
  norms[112] = 19.0  # Below 10 times the mean.
  found, state = spiked_steps(norms)
  assert found == [110] and state.step == 120
  assert 2.0 < state.watch['mean'] < 4.0


def test_gradients_that_grow_for_good_are_believed():
  found, _ = spiked_steps([1.0] * 100 + [50.0] * 60, limit=10.0)
  assert found[0] == 100 and 159 not in found


def test_numbers_that_are_not_finite_teach_nothing():
  found, state = spiked_steps([1.0] * 100 + [jnp.nan, jnp.inf, 1.0, 90.0])
  assert found == [100, 101, 103]
  np.testing.assert_allclose(state.watch['mean'], 1.09, rtol=1e-5)


def test_without_a_limit_a_state_remembers_nothing():
  assert guard.watch(0.0) == {}


@pytest.mark.parametrize(
  'field', [{'spike_limit': 0.5}, {'max_bad_steps': 0},
            {'watchdog_minutes': -1.0}]
)  # fmt: skip
def test_limits_that_make_no_sense(field):
  with pytest.raises(UserError, match=f'guard.{next(iter(field))}'):
    guard.GuardSpec(**field)
