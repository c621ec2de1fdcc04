"""Unconditional generation: the U-Net is told nothing (Sec. 4.2)."""

import flax.linen as nn
import numpy as np

from ldm_jax.types import Batch, Conditioning


def prepare(example: dict, rng: np.random.Generator) -> dict:
  del rng
  return {'image': example['image']}


class Unconditional(nn.Module):
  """No condition; its null is itself."""

  def __call__(self, batch: Batch, encode, train: bool) -> Conditioning:
    del batch, encode, train
    return Conditioning()

  def null(self, batch: Batch) -> Batch:
    return batch
