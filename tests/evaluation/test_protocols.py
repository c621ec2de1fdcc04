"""The two protocols differ where the field's two programs do."""

import dataclasses

import pytest

from ldm_jax.evaluation import protocols
from ldm_jax.types import UserError


def test_what_differs():
  ours, adm = (
    dataclasses.asdict(protocols.find(name))
    for name in ('torch-fidelity', 'adm')
  )
  assert {k: v for k, v in adm.items() if v != ours[k]} == {
    'name': 'adm',
    'is_splits': 0,
    'is_split_size': 5000,
    'is_shuffle_seed': None,
    'pr_half': True,
  }
  assert ours['pr_k'] == 3
  assert (ours['kid_subsets'], ours['kid_subset_size']) == (100, 1000)


def test_changes_and_unknown_names():
  found = protocols.find('adm', kid_subset_size=50, kid_subsets=None)
  assert found.kid_subset_size == 50 and found.kid_subsets == 100
  with pytest.raises(UserError, match='torch-fidelity, adm'):
    protocols.find('clean-fid')
