"""Unconditional generation: the U-Net is told nothing (Sec. 4.2)."""

import dataclasses

import flax.linen as nn
import numpy as np

from ldm_jax.types import Batch, Conditioning


@dataclasses.dataclass(frozen=True)
class Prepare:
  """Keeps the image."""

  latent_is_enough = True  # of the image
  needs = ()

  def __call__(self, example: dict, rng: np.random.Generator) -> dict:
    del rng
    return {'image': example['image']}

  def arrays(self, inputs: dict) -> dict:
    del inputs
    return {}

  def blank(self, size: int) -> dict:
    del size
    return {}


class Unconditional(nn.Module):
  """No condition; its null is itself."""

  def __call__(self, batch: Batch, encode, train: bool) -> Conditioning:
    del batch, encode, train
    return Conditioning()

  def null(self, batch: Batch) -> Batch:
    return batch
