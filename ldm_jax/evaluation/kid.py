"""Kernel Inception Distance (Binkowski et al. 2018)."""

import numpy as np

from ldm_jax.types import UserError


def kid(
  samples: np.ndarray,
  reference: np.ndarray,
  *,
  subsets: int = 100,
  subset_size: int = 1000,
  seed: int = 2020,
) -> dict[str, float]:
  """Mean and deviation over subsets of the unbiased squared MMD.

  The kernel is (x y / D + 1)^3. Subsets are drawn without replacement from
  NumPy's legacy generator, the samples' first, as torch-fidelity draws them.

  Args:
    samples, reference: features [N D].
    subsets: how many.
    subset_size: features in each.
    seed: of the draws.

  Raises:
    UserError: fewer features than a subset needs.
  """
  check(len(samples), len(reference), subset_size)
  rng = np.random.RandomState(seed)
  draw = lambda x: np.asarray(
    x[rng.choice(len(x), subset_size, replace=False)], np.float64
  )
  found = [squared_mmd(draw(samples), draw(reference)) for _ in range(subsets)]
  return {'kid': float(np.mean(found)), 'kid_std': float(np.std(found))}


def check(samples: int, reference: int, subset_size: int) -> None:
  """Raises UserError where one side has fewer images than a subset needs."""
  least = min(samples, reference)
  if least < subset_size:
    raise UserError(
      f'KID needs {subset_size} images on both sides, and one has {least}; '
      'set --kid_subset_size to fewer.'
    )


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
  """The unbiased estimate for two sets of equal size, x and y [M D]."""
  count = len(x)
  # The diagonals, a feature with itself, are what the estimate leaves out.
  within = sum(k.sum() - np.trace(k) for k in (_kernel(x, x), _kernel(y, y)))
  return within / (count * (count - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x, y):
  k = x @ y.T / x.shape[1] + 1
  return k * k * k
