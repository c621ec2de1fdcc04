"""Tests for ldm_jax.interop.component."""

import pytest

from ldm_jax.interop.component import Component
from ldm_jax.types import UserError

VALUES = {
  '_class_name': 'Net', 'width': 8, 'rate': 0.5, 'on': True, 'sizes': [1, 2],
  'same': [3, 3], 'kind': 'a', 'unset': None, 'extra': 7,
}  # fmt: skip


def component(**values):
  return Component(VALUES | values, 'net/config.json')


def test_values_and_defaults():
  c = component()
  assert c.class_name == 'Net'
  assert c.integer('width') == 8 and c.integer('unset', 4) == 4
  assert c.number('rate') == 0.5 and c.number('width') == 8.0
  assert c.flag('on', False) is True and c.flag('absent', False) is False
  assert c.list_of('sizes', int) == [1, 2]
  assert c.one('same', 1) == 3 and c.one('absent', 2) == 2
  assert c.choice('kind', {'a': 'ours'}, 'b') == 'ours'
  c.fixed(kind='a', unset=5, absent='x')


@pytest.mark.parametrize(
  ('call', 'named'),
  [
    (lambda c: c.integer('rate'), 'rate=0.5'),
    (lambda c: c.integer('absent'), 'absent=None'),
    (lambda c: c.integer('on'), 'on=True'),
    (lambda c: c.integer('huge'), 'huge=1099511627776'),
    (lambda c: c.number('kind'), "kind='a'"),
    (lambda c: c.number('nan'), 'nan=nan'),
    (lambda c: c.number('inf'), 'inf=inf'),
    (lambda c: c.flag('width', True), 'width=8'),
    (lambda c: c.list_of('kind', str), "kind='a'"),
    (lambda c: c.list_of('sizes', str), r'sizes=\[1, 2\]'),
    (lambda c: c.one('sizes', 1), r'sizes=\[1, 2\]'),
    (lambda c: c.choice('kind', {'b': 1}, 'b'), "kind='a'.*'b'"),
    (lambda c: c.choice('sizes', {'b': 1}, 'b'), r'sizes=\[1, 2\]'),
    (lambda c: c.fixed(kind='b'), "kind='a'.*'b'"),
  ],
)
def test_wrong_values_are_named_with_their_file(call, named):
  c = component(huge=2**40, nan=float('nan'), inf=float('inf'))
  with pytest.raises(UserError, match=f'net/config.json: {named}'):
    call(c)


def test_a_long_value_is_cut_short():
  with pytest.raises(UserError) as error:
    component(kind='x' * 10_000).integer('kind')
  assert len(str(error.value)) < 400


def test_what_was_not_looked_at_and_is_set_is_refused():
  c = component()
  for key in ('width', 'rate', 'on', 'sizes', 'same', 'kind'):
    c.get(key)
  with pytest.raises(UserError, match='extra=7 is not supported'):
    c.finish()
  c.get('extra')
  c.finish()


def test_it_must_be_an_object():
  with pytest.raises(UserError, match='net/config.json is no JSON object'):
    Component([1], 'net/config.json')
