"""The background thread hands on batches, failures and silence."""

import threading
import time

import numpy as np
import pytest

from ldm_jax.data import quarantine, stream
from ldm_jax.types import UserError


def batch(i, bad=''):
  return {'example_id': np.arange(2) + 2 * i, quarantine.KEY: bad}


def opened(batches, **options):
  watch = quarantine.Quarantine(1000, 0.01)
  return stream.Stream(batches, 2, 100, watch, **options)


def test_batches_arrive_in_order_and_are_counted():
  data = opened(batch(i) for i in range(5))
  for i in range(5):
    assert data.next_example == 100 + 2 * i
    assert next(data)['example_id'].tolist() == [2 * i, 2 * i + 1]
  data.close()


def test_it_reads_ahead_but_not_far():
  read = []

  def batches():
    for i in range(100):
      read.append(i)
      yield batch(i)

  data = opened(batches())
  deadline = time.monotonic() + 5
  while len(read) < 4 and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(0.05)
  assert 3 <= len(read) <= 5
  data.close()


@pytest.mark.parametrize(
  'error', [OSError('disk'), MemoryError(), SystemExit()]
)
def test_any_failure_is_a_data_error_that_says_where(error):
  def batches():
    yield batch(0)
    raise error

  data = opened(batches())
  next(data)
  for _ in range(2):
    with pytest.raises(stream.DataError, match='near example 102') as caught:
      next(data)
  assert caught.value.__cause__ is error
  assert data.next_example == 102


def test_a_mistake_of_the_user_stays_one():
  def batches():
    yield from ()
    raise UserError('your label is odd')

  with pytest.raises(UserError, match='your label is odd'):
    next(opened(batches()))


def test_an_end_that_should_not_be_is_an_error():
  with pytest.raises(stream.DataError, match='the source ended'):
    next(opened(iter(())))


def test_too_many_bad_images_end_it():
  bad = quarantine.pack([[(i, f'file{i}', 'damaged') for i in range(11)]])
  data = opened(iter([batch(0, bad), batch(1)]))
  for _ in range(2):
    with pytest.raises(UserError, match='data.max_bad'):
      next(data)
  assert data.num_bad == 11


class Hanging:
  """A batch, and then nothing."""

  def __init__(self):
    self.event = threading.Event()

  def __iter__(self):
    yield batch(0)
    self.event.wait()


def test_a_stall_can_be_waited_for_and_ends_with_an_error():
  hanging = Hanging()
  data = opened(hanging, stall_limit=0.3)
  assert data.wait(5.0)
  next(data)
  begin = time.monotonic()
  assert not data.wait(0.1)
  assert time.monotonic() - begin < 1
  threading.Timer(0.6, hanging.event.set).start()
  with pytest.raises(stream.DataError, match='no batch for'):
    next(data)


def test_a_loop_that_only_polls_hears_of_a_stall_too():
  data = opened(Hanging(), stall_limit=0.3)
  next(data)
  polls = 0
  while not data.wait(0.05):
    polls += 1
    assert polls < 100
  with pytest.raises(stream.DataError, match='no batch for'):
    next(data)


def test_waiting_for_a_stream_that_failed_does_not_block():
  data = opened(iter(()))
  assert data.wait(5.0)
  with pytest.raises(stream.DataError):
    next(data)
  assert data.wait(5.0)


def test_closing_ends_the_thread_and_closes_the_reader():
  closed = threading.Event()

  class Reader:
    def __iter__(self):
      return self

    def __next__(self):
      return batch(0)

    def close(self):
      closed.set()

  data = opened(Reader())
  next(data)
  data.close()
  data.close()
  assert closed.is_set()
  with pytest.raises(stream.DataError, match='closed'):
    next(data)


def test_a_forgotten_stream_ends_its_thread():
  before = threading.active_count()
  data = opened(batch(0) for _ in iter(int, 1))
  assert threading.active_count() == before + 1
  del data
  assert threading.active_count() == before
