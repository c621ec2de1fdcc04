"""Inception Score (Salimans et al. 2016)."""

import numpy as np
import scipy.special


def inception_score(
  logits: np.ndarray,
  *,
  splits: int = 10,
  split_size: int = 0,
  shuffle_seed: int | None = 2020,
) -> dict[str, float]:
  """exp of the mean KL(p(class | image) || p(class)): over splits, and its std.

  Args:
    logits: [N K], without the last layer's bias in both protocols.
    splits: number of equal parts.
    split_size: if above 0, parts of so many images in place of `splits`; the
      last may be shorter.
    shuffle_seed: of NumPy's legacy generator; None keeps the order.
  """
  logits = np.asarray(logits, np.float64)
  count = len(logits)
  if shuffle_seed is not None:
    logits = logits[np.random.RandomState(shuffle_seed).permutation(count)]
  if split_size:
    edges = [*range(0, count, split_size), count]
  else:
    splits = min(splits, count)
    edges = [i * count // splits for i in range(splits + 1)]
  scores = []
  for first, last in zip(edges, edges[1:]):
    log_p = scipy.special.log_softmax(logits[first:last], axis=1)
    log_mean = scipy.special.logsumexp(log_p, axis=0) - np.log(last - first)
    kl = np.sum(np.exp(log_p) * (log_p - log_mean), axis=1)
    scores.append(np.exp(kl.mean()))
  return {'is': float(np.mean(scores)), 'is_std': float(np.std(scores))}
