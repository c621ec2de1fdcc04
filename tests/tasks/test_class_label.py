"""One token per class; the last row is the null."""

import jax
import numpy as np
import pytest

from ldm_jax.tasks.class_label import ClassLabel, Prepare
from ldm_jax.types import UserError


def test_the_context_is_the_labels_row():
  conditioner = ClassLabel(num_classes=5, width=3)
  batch = {'label': np.array([4, 0])}
  variables = conditioner.init(jax.random.key(0), batch, None, False)
  context = conditioner.apply(variables, batch, None, False).context
  table = variables['params']['embedding']['embedding']
  assert context.shape == (2, 1, 3)
  np.testing.assert_array_equal(context[:, 0], table[np.array([4, 0])])


def test_the_null_is_the_last_row():
  null = ClassLabel(num_classes=1001, width=3).null({'label': np.array([3, 7])})
  np.testing.assert_array_equal(null['label'], [1000, 1000])


@pytest.mark.parametrize('label', [-1, 10, [3, 11]])
def test_a_label_outside_the_classes_is_named(label):
  with pytest.raises(UserError, match='is outside 0 to 9'):
    Prepare(num_classes=10).arrays({'label': label})


def test_the_nulls_row_is_no_class_where_the_condition_is_dropped():
  assert Prepare(10).arrays({'label': 9})['label'] == 9
  for label in (9, [3, 9]):
    with pytest.raises(UserError, match='0 to 8 .*needs task.num_classes=11'):
      Prepare(10, null_prob=0.1).arrays({'label': label})


@pytest.mark.parametrize(
  ('rows', 'null_label', 'null_prob', 'labels'),
  [
    (1000, False, None, 1000),  # Imports say so.
    (1001, True, None, 1000),
    (1001, None, 0.0, 1001),  # Runs trained here.
    (1001, None, 0.1, 1000),
    (1001, True, 0.0, 1000),
  ],
)
def test_which_row_is_no_class(rows, null_label, null_prob, labels):
  prepare = Prepare(rows, null_label, null_prob)
  assert prepare.num_labels == labels
  assert prepare.has_null == (labels < rows)
  assert prepare.arrays({'label': labels - 1})['label'] == labels - 1
  with pytest.raises(UserError, match=f'0 to {labels - 1} '):
    prepare.arrays({'label': labels})


def test_where_nobody_says_the_last_row_may_be_both():
  prepare = Prepare(11, None, None)
  assert prepare.has_null and prepare.num_labels == 11
  imagenet = Prepare(1001, None, None)
  assert imagenet.has_null and imagenet.num_labels == 1000


def test_a_null_that_is_trained_cannot_be_none():
  with pytest.raises(UserError, match=r'null_prob=0.1 .*task.null_label=False'):
    Prepare(10, False, 0.1)
