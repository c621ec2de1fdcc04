"""Tests for ldm_jax.training.metrics."""

import io
import json
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ldm_jax.training import metrics


def lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [
    json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()
  ]


def writer(workdir, step=0):
  return metrics.Writer(workdir, step, tensorboard=False)


def test_scalars_come_back_exactly(tmp_path):
  loss = jnp.float32(0.1)
  with writer(tmp_path / 'new') as w:
    w.scalars(1, {'loss': loss, 'count': jnp.int32(3), 'rate': 1e-4})
  assert lines(tmp_path / 'new') == [
    {'step': 1, 'loss': float(loss), 'count': 3, 'rate': 1e-4}
  ]


def test_every_line_is_json_whatever_the_numbers(tmp_path):
  with writer(tmp_path) as w:
    w.scalars(1, {'nan': np.nan, 'inf': jnp.inf, 'ok': 1.0})
  assert lines(tmp_path) == [{'step': 1, 'nan': None, 'inf': None, 'ok': 1.0}]


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path):
  w = writer(tmp_path)
  w.scalars(1, {'loss': 1.0})
  assert len(lines(tmp_path)) == 1
  w.close()


def test_going_on_drops_what_came_after_the_checkpoint(tmp_path):
  with writer(tmp_path) as w:
    for step in (10, 20, 20, 30):
      w.scalars(step, {'loss': step})
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 15, "lo')  # A kill in the middle of a line.
  with writer(tmp_path, step=20) as w:
    w.scalars(30, {'loss': -1})
  assert [line['loss'] for line in lines(tmp_path)] == [10, 20, 20, -1]
  assert [p.name for p in tmp_path.iterdir()] == ['metrics.jsonl']


def test_starting_from_nothing_keeps_nothing(tmp_path):
  with writer(tmp_path) as w:
    w.scalars(0, {'loss': 1})
    w.scalars(1, {'loss': 1})
  with writer(tmp_path):
    pass
  assert lines(tmp_path) == []


def test_images_are_written_whole(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (16, 8, 3), np.uint8)
  with writer(tmp_path) as w:
    path = w.image(500, 'samples', image)
  assert path == tmp_path / 'samples' / 'step_0000500_samples.png'
  np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
  assert list((tmp_path / 'samples').iterdir()) == [path]


def test_without_tensorflow_one_line_says_what_is_missing(
  tmp_path, monkeypatch, caplog
):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  caplog.set_level('INFO')
  with metrics.Writer(tmp_path) as w:
    w.scalars(1, {'loss': 1.0})
    w.image(1, 'x', np.zeros((2, 2, 3), np.uint8))
  (record,) = [r for r in caplog.records if 'TensorBoard' in r.getMessage()]
  assert 'pip install tensorflow clu' in record.getMessage()
  assert lines(tmp_path) == [{'step': 1, 'loss': 1.0}]


class Board:
  """Stands for clu's SummaryWriter."""

  def __init__(self):
    self.seen = []

  def write_scalars(self, step, values):
    self.seen.append((step, values))

  def write_images(self, step, values):
    self.seen.append((step, {k: v.shape for k, v in values.items()}))

  def close(self):
    self.seen.append('closed')


def test_tensorboard_gets_the_same_but_no_nan(tmp_path, monkeypatch):
  board = Board()
  monkeypatch.setattr(metrics, '_open_tensorboard', lambda _: board)
  with metrics.Writer(tmp_path) as w:
    w.scalars(3, {'loss': 1.0, 'bad': math.nan})
    w.image(3, 'x', np.zeros((2, 2, 3), np.uint8))
  assert board.seen == [(3, {'loss': 1.0}), (3, {'x': (1, 2, 2, 3)}), 'closed']


class Clock:
  """Time that passes when told to."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


class Terminal(io.StringIO):
  def isatty(self):
    return True


def progress(out, total=100, start=0):
  clock = Clock()
  return clock, metrics.Progress(total, start, 8, out, clock)


def test_the_line_tells_speed_and_what_is_left():
  out = io.StringIO()
  clock, bar = progress(out)
  clock.now += 60  # Compiling.
  bar.compiled(1)
  for _ in range(10):
    with bar.waiting():
      clock.now += 0.5
    clock.now += 1.5
  with bar.paused():
    clock.now += 1000
  figures = bar.log(11, {'loss': jnp.float32(0.25), 'learning_rate': 1e-4})
  assert figures['images_per_second'] == pytest.approx(4.0)
  assert figures['data_wait'] == pytest.approx(0.25)
  assert figures['eta_seconds'] == pytest.approx(89 * 2)
  assert figures['memory_bytes'] > 2**20
  line = out.getvalue()
  start = 'step 11/100  4.0 img/s  eta 2m58s  loss 0.25  lr 0.0001  data 25%'
  assert line.startswith(start) and line.endswith('GiB\n')


def test_rates_are_those_since_the_last_line():
  clock, bar = progress(io.StringIO(), start=40)
  clock.now += 10
  assert bar.log(50, {})['images_per_second'] == pytest.approx(8.0)
  clock.now += 1
  assert bar.log(60, {})['images_per_second'] == pytest.approx(80.0)


def test_a_log_gets_lines_and_a_terminal_one_line():
  for out, breaks in ((io.StringIO(), 2), (Terminal(), 1)):
    clock, bar = progress(out, total=2)
    for step, loss in ((1, 0.123456), (2, 1.0)):
      clock.now += 1
      bar.log(step, {'loss': loss})
    bar.close()
    assert out.getvalue().count('\n') == breaks
  # The shorter second line covers all of the first.
  first, second = out.getvalue().rstrip('\n').split('\r')[1:]
  assert len(second) >= len(first)


@pytest.mark.parametrize(
  'seconds, text',
  [
    (0.4, '0s'),
    (59.7, '1m00s'),
    (185, '3m05s'),
    (7800, '2h10m'),
    (4 * 86400 + 3 * 3600, '4d03h'),
    (math.inf, '?'),
  ],
)
def test_durations(seconds, text):
  assert metrics.duration(seconds) == text
