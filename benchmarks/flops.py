"""FLOPs of loops, of which XLA's cost analysis counts the body once."""

import math
from collections.abc import Iterator

from jax.extend import core


def left_out(jaxpr: core.Jaxpr, times: int = 1) -> float:
  """FLOPs of the second and later turns of all scans' products.

  Products of matrices and convolutions alone are counted, twice their
  multiplications; a `while` loop, of unknown length, has one turn. `times`: how
  often the jaxpr itself is run.
  """
  found = 0.0
  for eqn in jaxpr.eqns:
    found += (times - 1) * _product(eqn)
    turns = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
    for inner in _within(eqn):
      found += left_out(inner, times * turns)
  return found


def _product(eqn: core.JaxprEqn) -> float:
  out = math.prod(eqn.outvars[0].aval.shape)
  if eqn.primitive.name == 'dot_general':
    (contracted, _), _ = eqn.params['dimension_numbers']
    sides = eqn.invars[0].aval.shape
    return 2.0 * out * math.prod(sides[axis] for axis in contracted)
  if eqn.primitive.name == 'conv_general_dilated':
    kernel = eqn.invars[1].aval.shape
    features = kernel[eqn.params['dimension_numbers'].rhs_spec[0]]
    return 2.0 * out * math.prod(kernel) / features
  return 0.0


def _within(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
  for value in eqn.params.values():
    for part in value if isinstance(value, tuple | list) else [value]:
      if isinstance(part, core.ClosedJaxpr):
        yield part.jaxpr
      elif isinstance(part, core.Jaxpr):
        yield part
