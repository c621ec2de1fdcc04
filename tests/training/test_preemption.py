"""Tests for ldm_jax.training.preemption. Many processes: test_parallel.py."""

import os
import signal
import threading
import time

import jax
import pytest
from jax.experimental import multihost_utils

from ldm_jax.training.preemption import EXIT_CODE, Preemption


def send(number):
  os.kill(os.getpid(), number)
  time.sleep(0.01)  # Python runs the handler at its next opportunity.


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop_and_interrupts_nothing(number):
  with Preemption() as preemption:
    assert not preemption.requested(1) and not preemption.signalled
    send(number)
    assert preemption.requested(2) and preemption.signalled
    assert preemption.requested(3)


def test_any_number_of_terminations_is_one_request():
  with Preemption() as preemption:
    for _ in range(5):
      send(signal.SIGTERM)
    assert preemption.requested(1)


def test_a_second_interrupt_ends_the_run_at_once():
  with pytest.raises(KeyboardInterrupt), Preemption():
    send(signal.SIGINT)
    send(signal.SIGINT)


def test_it_is_noticed_while_the_main_thread_waits():
  """A stalled data queue must not hide the request."""
  with Preemption() as preemption:
    threading.Timer(0.1, send, [signal.SIGTERM]).start()
    deadline = time.monotonic() + 10
    event = threading.Event()
    while not preemption.signalled and time.monotonic() < deadline:
      event.wait(0.02)
    assert preemption.signalled


def test_the_handlers_from_before_come_back():
  before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
  with Preemption():
    assert signal.getsignal(signal.SIGTERM) != before[0]
  assert before == [
    signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)
  ]


def test_several_processes_count_from_the_first_step_of_this_start(monkeypatch):
  """JAX's service stops at 1 where it was told before it was ever asked."""
  asked = []

  def reached(step):
    asked.append(step)
    return step == 1

  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', reached)
  with Preemption() as preemption:
    assert [preemption.requested(step) for step in (24, 25)] == [False, True]
    assert preemption.requested(25)  # Asked again, it answers as before.
  assert asked == [0, 1, 1]


def test_the_exit_code_is_not_one_that_means_something_else():
  # 0 and 1 say done and crashed, 2 a mistake; above 127 shells report signals.
  assert EXIT_CODE == 75
