"""Pickles as data: what plain ones mean, and that nothing of them happens."""

import collections
import io
import pickle

import pytest

from ldm_jax.interop.inert_pickle import Interpreter, Opaque
from ldm_jax.interop.mapped import Damaged


class Touchy:
  """Would tell if it were built, called or given a state."""

  happened: list = []

  def __init__(self):
    self.happened.append('init')

  def __setstate__(self, state):
    self.happened.append('state')

  def __reduce__(self):
    return (Touchy, (), {'a': 1})


def load(data: bytes, inert=(), calls=None, persistent=None):
  interpreter = Interpreter(calls or {}, tuple(inert), persistent)
  return interpreter.load(io.BytesIO(data))


VALUES = {
  'a': [1, 2.5, None, True, False, -7, 2**40, 'text', b'bytes'],
  'b': {'c': (1,), 'd': (1, 2), 'e': (1, 2, 3), 'f': (), 'g': (1, 2, 3, 4)},
  3: {4, 5},
  (1, 'x'): 'a tuple may be a key',
}


@pytest.mark.parametrize('protocol', range(2, 6))
def test_plain_values_are_what_pickle_says(protocol):
  data = pickle.dumps(VALUES, protocol)
  allowed = ['builtins.set', '__builtin__.set', '_codecs.encode']
  result = load(data, allowed)
  expected = pickle.loads(data)
  if protocol < 4:  # There a set and bytes are calls, of which nothing comes.
    assert isinstance(result.pop(3), Opaque)
    expected.pop(3)
  if protocol < 3:
    assert isinstance(result['a'].pop(), Opaque)
    expected['a'].pop()
  assert result == expected


@pytest.mark.parametrize('protocol', range(6))
def test_objects_are_neither_built_nor_given_a_state(protocol):
  Touchy.happened.clear()
  data = pickle.dumps({'x': Touchy()}, protocol)
  Touchy.happened.clear()
  with pytest.raises(Damaged, match='Touchy.*nothing was executed'):
    load(data)
  result = load(data, [f'{__name__}.'])
  assert isinstance(result['x'], Opaque)
  assert result['x'].name.endswith('Touchy')
  assert not Touchy.happened


def test_shared_values_stay_shared():
  shared = ['x']
  result = load(pickle.dumps([shared, shared], 2))
  assert result[0] is result[1]


def test_calls_are_ours_alone():
  data = pickle.dumps(collections.OrderedDict(a=1), 2)
  calls = {'collections.OrderedDict': lambda items=(): dict(items)}
  result = load(data, calls=calls)
  assert type(result) is dict and result == {'a': 1}


def test_several_pickles_in_one_stream():
  stream = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps('b', 2) + b'rest')
  interpreter = Interpreter({}, (), None)
  assert interpreter.load(stream) == 1
  assert interpreter.load(stream) == 'b'
  assert stream.read() == b'rest'


def test_a_file_cut_off_anywhere_is_damaged():
  data = pickle.dumps(VALUES, 4)
  for end in range(len(data)):
    with pytest.raises(Damaged):
      load(data[:end], ['builtins.set'])


def test_noise_is_damaged_or_a_value():
  import random

  draw = random.Random(0)
  data = bytearray(pickle.dumps(VALUES, 4))
  for _ in range(2000):
    noisy = bytearray(data)
    for _ in range(3):
      noisy[draw.randrange(len(noisy))] = draw.randrange(256)
    try:
      load(bytes(noisy), ['builtins.set'])
    except Damaged:
      pass
