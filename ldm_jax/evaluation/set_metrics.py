"""Metrics of a set of images against another, by name: what each needs."""

from collections.abc import Callable, Collection
from typing import NamedTuple

from ldm_jax.evaluation import inception_score as scores
from ldm_jax.evaluation import kid, manifold
from ldm_jax.evaluation.frechet import frechet_distance
from ldm_jax.evaluation.protocols import Protocol
from ldm_jax.evaluation.statistics import Statistics
from ldm_jax.types import UserError


class Metric(NamedTuple):
  """What a metric needs of both sets, and how it comes of them.

  `rows` are needed of the samples, and but for IS of the reference. `check`
  is given the number of samples and of references, and raises UserError.
  """

  compute: Callable[[Statistics, Statistics | None, Protocol], dict]
  moments: tuple[str, ...] = ()
  rows: tuple[str, ...] = ()
  reference: bool = True
  check: Callable[[int, int, Protocol], None] = lambda *counts: None


def _frechet(name, features):
  def compute(samples, reference, protocol):
    del protocol
    a, b = samples.moments[features], reference.moments[features]
    return {name: frechet_distance(*a, *b)}

  return Metric(compute, moments=(features,), check=_check_frechet)


def _check_frechet(samples, reference, protocol):
  del protocol
  if 1 in (samples, reference):
    raise UserError(
      'A Fréchet distance needs 2 images on either side, and of one there is '
      'but 1.'
    )


def _kid(samples, reference, protocol):
  return kid.kid(
    samples.rows['pool'],
    reference.rows['pool'],
    subsets=protocol.kid_subsets,
    subset_size=protocol.kid_subset_size,
    seed=protocol.kid_seed,
  )


def _check_kid(samples, reference, protocol):
  kid.check(samples, reference, protocol.kid_subset_size)


def _inception_score(samples, reference, protocol):
  del reference
  return scores.inception_score(
    samples.rows['logits'],
    splits=protocol.is_splits,
    split_size=protocol.is_split_size,
    shuffle_seed=protocol.is_shuffle_seed,
  )


def _precision_recall(samples, reference, protocol):
  pair = reference.rows['pool'], samples.rows['pool']
  found = manifold.precision_recall(*pair, k=protocol.pr_k)
  if protocol.pr_half:
    half = manifold.precision_recall(*pair, k=protocol.pr_k, half=True)
    found |= {f'{name}_float16': value for name, value in half.items()}
  return found


def _check_precision_recall(samples, reference, protocol):
  manifold.check(min(samples, reference), protocol.pr_k)


def _density_coverage(samples, reference, protocol):
  pair = reference.rows['pool'], samples.rows['pool']
  return manifold.density_coverage(*pair, k=protocol.dc_k)


def _check_density_coverage(samples, reference, protocol):
  del samples
  manifold.check(reference, protocol.dc_k)


# Under Inception.
METRICS = {
  'fid': _frechet('fid', 'pool'),
  'sfid': _frechet('sfid', 'spatial'),
  'kid': Metric(_kid, rows=('pool',), check=_check_kid),
  'is': Metric(_inception_score, rows=('logits',), reference=False),
  'pr': Metric(
    _precision_recall, rows=('pool',), check=_check_precision_recall
  ),
  'dc': Metric(
    _density_coverage, rows=('pool',), check=_check_density_coverage
  ),
}
# Under the random network, which needs no file.
RANDOM = {
  'random_frechet': _frechet('random_frechet', 'pool'),
}


def needs(
  metrics: Collection[Metric], of_reference: bool
) -> dict[str, tuple[str, ...]]:
  """{'moments', 'rows'} that `statistics.measure` is to keep."""
  used = [m for m in metrics if m.reference or not of_reference]
  gather = lambda kind: tuple(
    sorted({name for m in used for name in getattr(m, kind)})
  )
  return {'moments': gather('moments'), 'rows': gather('rows')}


def compute(
  metrics: dict[str, Metric],
  samples: Statistics,
  reference: Statistics | None,
  protocol: Protocol,
) -> dict[str, float]:
  """All of `metrics`, one flat dict of numbers.

  Raises:
    UserError: a reference, or something of it, is missing.
  """
  found = {}
  for name, metric in metrics.items():
    if metric.reference and reference is None:
      raise UserError(f'--metrics={name} needs --reference.')
    for kind in ('moments', 'rows'):
      for wanted in getattr(metric, kind) if metric.reference else ():
        if wanted not in getattr(reference, kind):
          raise UserError(
            f'--metrics={name} needs images (arr_0) of the reference, and '
            f'{reference.name} holds statistics alone.'
          )
    found |= metric.compute(samples, reference, protocol)
  return found
