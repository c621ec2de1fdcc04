"""Sections: keys are fields, types are checked, and mistakes are named."""

import dataclasses

import pytest

from ldm_jax import sections
from ldm_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Spec:
  width: int
  rate: float = 0.5
  levels: tuple[int, ...] = ()
  pair: tuple[int, int] = (0, 0)
  name: str | None = None
  deep: bool = False


def build(**values):
  return sections.construct('spec', Spec, values)


def test_values_take_the_types_of_their_fields():
  spec = build(width=3.0, rate=1, levels=[1, 2], pair=[3, 4])
  assert spec == Spec(3, 1.0, (1, 2), (3, 4))
  assert type(spec.width) is int and type(spec.rate) is float


@pytest.mark.parametrize(
  ('values', 'says'),
  [
    ({}, 'spec.width is missing'),
    ({'width': 1, 'levls': ()}, "Did you mean 'spec.levels'"),
    ({'width': '1'}, "spec.width='1' must be int"),
    ({'width': 1.5}, 'spec.width=1.5 must be int'),
    ({'width': True}, 'spec.width=True must be int'),
    ({'width': 1, 'pair': (1, 2, 3)}, r'spec.pair=\(1, 2, 3\) must be'),
    ({'width': 1, 'levels': ('a',)}, "spec.levels='a' must be int"),
    ({'width': 1, 'deep': 1}, 'spec.deep=1 must be bool'),
  ],
)
def test_mistakes_are_named(values, says):
  with pytest.raises(UserError, match=says):
    build(**values)


def test_an_unset_placeholder_leaves_the_default():
  assert build(width=1, name=None, rate=None) == Spec(1)


def test_a_functions_arguments_are_keys_too():
  def area(height: float, width: float = 2.0) -> float:
    return height * width

  assert sections.call('area', area, {'height': 3}) == 6.0
  with pytest.raises(UserError, match="Did you mean 'area.height'"):
    sections.call('area', area, {'heigt': 3})
