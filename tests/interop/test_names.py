"""Rows: layouts are exact in both directions, differences are all listed."""

import numpy as np
import pytest

from ldm_jax.interop import names
from ldm_jax.interop.names import Row
from ldm_jax.types import UserError

SHAPES = {
  'same': (5,),
  'conv': (4, 3, 2, 1),
  'dense': (4, 3),
  'dense_1d': (4, 3, 1),
  'pointwise': (4, 3),
}


@pytest.mark.parametrize('layout', names.LAYOUTS)
def test_layouts_are_exact_both_ways(layout):
  shape = SHAPES[layout]
  x = np.random.default_rng(0).standard_normal(shape, np.float32)
  row = Row('a/b', 'c.d', shape, layout)
  ours = row.to_ours(x)
  assert ours.shape == row.our_shape
  again = row.to_theirs(ours)
  assert again.shape == shape
  np.testing.assert_array_equal(again, x)


def test_convolutions_and_matrices_are_turned_as_flax_has_them():
  x = np.arange(24).reshape(4, 3, 2, 1)  # [out in h w]
  assert Row('', '', x.shape, 'conv').to_ours(x)[1, 0, 2, 3] == x[3, 2, 1, 0]
  x = np.arange(12).reshape(4, 3, 1)  # [out in 1]
  assert Row('', '', x.shape, 'dense_1d').to_ours(x)[2, 3] == x[3, 2, 0]


ROWS = [
  *names.conv('m/conv', 'conv', 2, 3),
  *names.dense('m/dense', 'dense', 4, 5, bias=False),
  *names.norm('m/norm', 'norm', 6),
  *names.embedding('m/table', 'table', 7, 8),
]


def tensors():
  rng = np.random.default_rng(0)
  return {r.theirs: rng.standard_normal(r.shape, np.float32) for r in ROWS}


def test_trees_go_there_and_back():
  given = tensors()
  assert not names.compare(ROWS, given)
  trees = names.to_ours(ROWS, given)
  assert trees['m']['conv']['kernel'].shape == (3, 3, 2, 3)
  again = names.to_theirs(ROWS, trees)
  assert again.keys() == given.keys()
  for name, x in given.items():
    np.testing.assert_array_equal(again[name], x)


def test_every_kind_of_difference_is_listed():
  given = tensors()
  del given['norm.bias']
  given['extra'] = np.zeros(2)
  given['dense.weight'] = given['dense.weight'].T
  given['conv.bias'][1] = np.inf
  found = names.compare(ROWS, given)
  assert found.missing == ['norm.bias']
  assert found.unexpected == ['extra']
  assert found.misshapen == ['dense.weight [4 5] instead of [5 4]']
  assert found.not_finite == ['conv.bias']
  assert str(found).startswith('1 missing: norm.bias; 1 unexpected: extra; ')


def test_a_tree_without_a_parameter_is_named():
  trees = names.to_ours(ROWS, tensors())
  del trees['m']['norm']['scale']
  with pytest.raises(UserError, match='1 parameters.*m/norm/scale'):
    names.to_theirs(ROWS, trees)


@pytest.mark.parametrize('where', [0, 5_000_000, 9_999_999])
def test_large_arrays_are_walked_to_their_end(where):
  x = np.zeros((10, 1_000_000), np.float16)
  assert names.is_finite(x)
  x.reshape(-1)[where] = np.nan
  assert not names.is_finite(x)


def test_a_view_of_one_element_stays_one():
  x = np.broadcast_to(np.float64(0.5), (2**20, 2**20))
  assert names.is_finite(x)
  ours = names.as_float32(x)
  assert ours.dtype == np.float32 and ours.strides == (0, 0)
