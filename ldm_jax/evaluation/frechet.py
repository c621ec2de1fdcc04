"""The Fréchet distance between Gaussians: FID on Inception's features."""

import numpy as np
import scipy.linalg


def frechet_distance(
  mean_a: np.ndarray,
  cov_a: np.ndarray,
  mean_b: np.ndarray,
  cov_b: np.ndarray,
) -> float:
  """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) (Heusel et al. 2017).

  The last trace is the nuclear norm of A^(1/2) B^(1/2). So it needs no root
  of a matrix that is not symmetric, has no imaginary part to be thrown away,
  and stays exact where fewer images than features make A and B singular.
  """
  difference = np.asarray(mean_a, np.float64) - mean_b
  overlap = scipy.linalg.svdvals(_root(cov_a) @ _root(cov_b)).sum()
  distance = (
    difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * overlap
  )
  return max(float(distance), 0.0)  # Equal ones may end at -1e-12.


def _root(cov: np.ndarray) -> np.ndarray:
  values, vectors = scipy.linalg.eigh(np.asarray(cov, np.float64))
  return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
