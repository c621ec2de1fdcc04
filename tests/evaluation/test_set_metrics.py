"""Metrics by name: what each asks of the sets, and that nothing is guessed."""

import numpy as np
import pytest

from ldm_jax.evaluation import moments, set_metrics
from ldm_jax.evaluation.protocols import find
from ldm_jax.evaluation.statistics import Statistics
from ldm_jax.types import UserError

RNG = np.random.default_rng(0)
PROTOCOL = find('adm', kid_subset_size=20, kid_subsets=5)


def statistics(shift=0.0):
  pool = RNG.standard_normal((60, 6)) + shift
  found = moments.of([pool])
  both = dict.fromkeys(('pool', 'spatial'), (found.mean, found.covariance))
  return Statistics('a', 60, both, {'pool': pool, 'logits': pool})


def test_every_metric_from_what_it_says_it_needs():
  full = statistics(), statistics(1.0)
  for name, metric in set_metrics.METRICS.items():
    cut = []
    for of_reference, found in zip((False, True), full):
      needs = set_metrics.needs([metric], of_reference)
      cut.append(
        Statistics(
          'a',
          60,
          {k: found.moments[k] for k in needs['moments']},
          {k: found.rows[k] for k in needs['rows']},
        )
      )
    found = set_metrics.compute({name: metric}, *cut, PROTOCOL)
    assert found and all(np.isfinite(list(found.values()))), name


def test_adm_gives_float16_beside_float32():
  table = {'pr': set_metrics.METRICS['pr']}
  names = lambda p: set(
    set_metrics.compute(table, statistics(), statistics(), find(p))
  )
  assert names('torch-fidelity') == {'precision', 'recall'}
  assert names('adm') - names('torch-fidelity') == {
    'precision_float16', 'recall_float16',
  }  # fmt: skip


def test_a_reference_of_statistics_alone_has_no_neighbours():
  alone = Statistics('ref.npz', 0, statistics().moments, {})
  table = {'pr': set_metrics.METRICS['pr']}
  with pytest.raises(UserError, match='arr_0.*ref.npz holds statistics alone'):
    set_metrics.compute(table, statistics(), alone, PROTOCOL)
  with pytest.raises(UserError, match='--reference'):
    set_metrics.compute(table, statistics(), None, PROTOCOL)
