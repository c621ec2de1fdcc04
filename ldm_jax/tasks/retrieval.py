"""Retrieval-augmented generation: the U-Net reads embeddings that are given.

The release's 768 px model was trained on CLIP embeddings of each image's
nearest neighbours (Blattmann et al. 2022), and ships no encoder.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldm_jax.types import Batch, Conditioning, UserError


@dataclasses.dataclass(frozen=True)
class Prepare:
  """Keeps the image and its neighbours' embeddings, unit vectors as a rule."""

  width: int
  neighbours: int = 20

  needs = ('embeddings',)

  def __call__(self, example: dict, rng: np.random.Generator) -> dict:
    del rng
    arrays = self.arrays({'embeddings': example['embeddings']})
    return {'image': example['image'], **arrays}

  def arrays(self, given: dict) -> dict:
    """embeddings [(B) N width], any N -> float32."""
    if 'embeddings' not in given:
      raise UserError('This run draws from embeddings [N width]: give them.')
    embeddings = np.asarray(given['embeddings'], np.float32)
    if embeddings.ndim not in (2, 3) or embeddings.shape[-1] != self.width:
      raise UserError(
        f'embeddings has the shape {list(embeddings.shape)}; it must be '
        f'[N {self.width}] or [B N {self.width}].'
      )
    return {'embeddings': embeddings}

  def blank(self, size: int) -> dict:
    del size
    return {'embeddings': np.zeros((self.neighbours, self.width), np.float32)}


class Retrieval(nn.Module):
  """embeddings [B N width] -> context, untouched; the null is zeros."""

  def __call__(self, batch: Batch, encode, train: bool) -> Conditioning:
    del encode, train
    return Conditioning(context=batch['embeddings'])

  def null(self, batch: Batch) -> Batch:
    return {**batch, 'embeddings': jnp.zeros_like(batch['embeddings'])}
