"""Two ways in which the field computes its numbers, by name.

Both feed uint8 images, resized to 299 as TensorFlow 1 does, to the same
Inception; they differ in how scores are split and neighbours counted. The
paper takes FID and IS from torch-fidelity, precision and recall from ADM.
"""

import dataclasses

from ldm_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Protocol:
  """Settings of the set metrics.

  Attributes:
    is_splits, is_split_size, is_shuffle_seed: see inception_score.
    kid_subsets, kid_subset_size, kid_seed: see kid.
    pr_k: neighbour of precision and recall.
    pr_half: whether these are also given with distances in float16, as ADM's
      evaluator computes them on a GPU.
    dc_k: neighbour of density and coverage.
  """

  name: str
  is_splits: int = 10
  is_split_size: int = 0
  is_shuffle_seed: int | None = 2020
  kid_subsets: int = 100
  kid_subset_size: int = 1000
  kid_seed: int = 2020
  pr_k: int = 3
  pr_half: bool = False
  dc_k: int = 5


PROTOCOLS = {
  'torch-fidelity': Protocol('torch-fidelity'),
  'adm': Protocol(
    'adm', is_splits=0, is_split_size=5000, is_shuffle_seed=None, pr_half=True
  ),
}


def find(name: str, **changes) -> Protocol:
  """A protocol by name; `changes` that are not None replace its settings."""
  if name not in PROTOCOLS:
    raise UserError(
      f'--protocol={name} is unknown; allowed: {", ".join(PROTOCOLS)}.'
    )
  changes = {k: v for k, v in changes.items() if v is not None}
  return dataclasses.replace(PROTOCOLS[name], **changes)
