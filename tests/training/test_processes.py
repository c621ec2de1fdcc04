"""Tests for ldm_jax.training.processes. Real ones: test_parallel.py."""

import jax
import pytest

from ldm_jax.training import processes
from ldm_jax.types import UserError
from tests.coordinator import Coordinator, join


def never():
  raise AssertionError('this is the work of process 0')


def test_one_process_just_works():
  assert processes.by_first(lambda: 7) == 7


def test_the_others_wait_for_as_long_as_it_takes(monkeypatch):
  coordinator = Coordinator(late=50)
  join(monkeypatch, coordinator, 1)
  assert processes.by_first(never) is None
  assert coordinator.asked == 51


@pytest.mark.parametrize(
  'error, kind',
  [
    (UserError('no such split'), UserError),
    (OSError('the disk is full'), RuntimeError),
    (KeyboardInterrupt(), RuntimeError),
  ],
)
def test_what_ends_the_first_ends_the_others(error, kind, monkeypatch):
  coordinator = Coordinator(told={})

  def fail():
    raise error

  join(monkeypatch, coordinator, 0)
  assert processes.by_first(lambda: 7) == 7
  with pytest.raises(type(error)):
    processes.by_first(fail)
  join(monkeypatch, coordinator, 1)
  assert processes.by_first(never) is None
  told = str(error) or type(error).__name__
  with pytest.raises(kind, match=f'Process 0: {told}'):
    processes.by_first(never)


def test_who_cannot_hear_of_the_first_any_more_does_not_wait(monkeypatch):
  join(monkeypatch, Coordinator(told={}), 1)
  with pytest.raises(jax.errors.JaxRuntimeError, match='UNAVAILABLE'):
    processes.by_first(never)
