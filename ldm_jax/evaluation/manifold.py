"""Precision, recall, density, coverage: sets as unions of k-NN balls.

Kynkäänniemi et al. (2019) and Naeem et al. (2020). Distances are computed a
block at a time, its rows split over the devices.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax.types import UserError

_ROWS, _COLUMNS = 2000, 10_000


def precision_recall(
  reference: np.ndarray, samples: np.ndarray, *, k: int = 3, half: bool = False
) -> dict[str, float]:
  """Shares of samples near references, and of references near samples.

  Near: no farther from some point than its own k-th neighbour, itself not
  counted.

  Args:
    reference, samples: features [N D].
    k: which neighbour.
    half: whether distances are rounded to float16 as ADM's evaluator does
      wherever they are finite; with ties, which float32 does not have.
  """
  a, b = _centred(reference, samples, half)
  near = lambda x, y: float(
    np.mean(_reduce(x, y, _covered, (radii(y, k, half),), half))
  )
  return {'precision': near(b, a), 'recall': near(a, b)}


def density_coverage(
  reference: np.ndarray, samples: np.ndarray, *, k: int = 5
) -> dict[str, float]:
  """How many reference balls hold a sample, over k; which hold any at all.

  Args:
    reference, samples: features [N D].
    k: the neighbour, itself not counted, that a ball reaches to.
  """
  a, b = _centred(reference, samples, False)
  reach = radii(a, k)
  held = _reduce(b, a, _held, (reach,))
  nearest = _reduce(a, b, _nearest)
  return {
    'density': float(held.mean() / k),
    'coverage': float(np.mean(nearest < reach)),
  }


def check(count: int, k: int) -> None:
  """Raises UserError where so few images have no k-th neighbour."""
  if count <= k:
    raise UserError(f'{count} images have no neighbour number {k}.')


def radii(features: np.ndarray, k: int, half: bool = False) -> np.ndarray:
  """Squared distance of each of [N D] to its k-th neighbour: [N]."""
  check(len(features), k)
  # The nearest of all is the feature itself.
  return _reduce(features, features, _smallest(k + 1), half=half)[:, -1]


# What is kept of a block of squared distances [R C], and how blocks join.


@functools.cache
def _smallest(k):
  def keep(d, before=None):
    if before is not None:
      d = jnp.concatenate([before, d], axis=1)
    # Of fewer than k columns all are kept, until there are enough.
    return -jax.lax.top_k(-d, min(k, d.shape[1]))[0]

  return keep


def _covered(d, reach, before=None):
  found = jnp.any(d <= reach, axis=1)
  return found if before is None else found | before


def _held(d, reach, before=None):
  found = jnp.sum(d < reach, axis=1)
  return found if before is None else found + before


def _nearest(d, before=None):
  found = jnp.min(d, axis=1)
  return found if before is None else jnp.minimum(found, before)


def _reduce(x, y, keep, of_columns=(), half=False) -> np.ndarray:
  """`keep` of the distances from rows x [N D] to all rows y [M D]."""
  mesh = Mesh(np.asarray(jax.local_devices()), ('rows',))
  split = NamedSharding(mesh, PartitionSpec('rows'))
  everywhere = NamedSharding(mesh, PartitionSpec())
  size = math.ceil(min(_ROWS, len(x)) / mesh.size) * mesh.size
  step = _compiled(keep, half)
  found = []
  for i in range(0, len(x), size):
    rows = x[i : i + size]
    padded = np.pad(rows, ((0, size - len(rows)), (0, 0)))
    u, kept = jax.device_put(padded, split), None
    for j in range(0, len(y), _COLUMNS):
      part = slice(j, j + _COLUMNS)
      columns = [jax.device_put(a[part], everywhere) for a in (y, *of_columns)]
      kept = step(u, *columns, before=kept)
    found.append(np.asarray(kept)[: len(rows)])
  return np.concatenate(found)


@functools.lru_cache(maxsize=8)
def _compiled(keep, half):
  @jax.jit
  def step(u, v, *of_columns, before):
    return keep(_squared(u, v, half), *of_columns, before=before)

  return step


def _squared(u, v, half):
  # Highest: a GPU would otherwise multiply with ten bits of mantissa.
  dot = functools.partial(jnp.matmul, precision='highest')
  exact = lambda u, v: jnp.maximum(
    jnp.sum(u * u, 1)[:, None] - 2 * dot(u, v.T) + jnp.sum(v * v, 1), 0
  )
  if not half:
    return exact(u, v)
  # Not in float16 itself: XLA may leave out a rounding between two operations.
  low = lambda x: jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)
  u16, v16 = low(u), low(v)
  norm = lambda x: low(jnp.sum(low(x * x), 1))
  rounded = low(norm(u16)[:, None] - low(2 * low(dot(u16, v16.T))))
  rounded = jnp.maximum(low(rounded + norm(v16)), 0)
  finite = jnp.all(jnp.isfinite(rounded))
  return jax.lax.cond(finite, lambda: rounded, lambda: exact(u, v))


def _centred(a, b, half):
  """float32; moved to a common centre, where squares are small and cancel
  less. Not for float16, whose rounding is to be that of the features."""
  a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
  if half:
    return a, b
  centre = a.mean(0, dtype=np.float64).astype(np.float32)
  return a - centre, b - centre
