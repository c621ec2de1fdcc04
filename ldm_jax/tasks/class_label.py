"""Class-conditional generation: one learned token per class (Sec. 4.2)."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldm_jax.types import Batch, Conditioning, UserError


@dataclasses.dataclass(frozen=True)
class Prepare:
  """Keeps the image and its label.

  `null_prob` is the run's: above 0, the last of the rows is no class.
  """

  num_classes: int
  null_prob: float = 0.0

  latent_is_enough = True  # of the image
  needs = ('label',)

  def __call__(self, example: dict, rng: np.random.Generator) -> dict:
    del rng
    label = self.arrays({'label': example['label']})['label']
    return {'image': example['image'], 'label': label}

  def arrays(self, inputs: dict) -> dict:
    """label (an int or [B]) -> int32; out of range is a UserError."""
    if 'label' not in inputs:
      raise UserError('This run is class-conditional: give a label.')
    label = np.asarray(inputs['label'], np.int32)
    null = bool(self.null_prob)
    classes = self.num_classes - null
    outside = label[(label < 0) | (label >= classes)]
    if outside.size:
      last = ', the last row being the null of null_prob' if null else ''
      raise UserError(
        f'label {outside.flat[0]} is outside 0 to {classes - 1} '
        f'(task.num_classes={self.num_classes}{last}); data with labels up to '
        f'{outside.max()} needs task.num_classes={outside.max() + 1 + null}.'
      )
    return {'label': label}

  def blank(self, size: int) -> dict:
    del size
    return {'label': np.int32(0)}


class ClassLabel(nn.Module):
  """label [B] -> context [B 1 width].

  `num_classes` counts the table's rows. Where the condition is dropped in
  training, the last row is the null: 1001 rows for ImageNet, null 1000.
  """

  num_classes: int
  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, batch: Batch, encode, train: bool) -> Conditioning:
    del encode, train
    table = nn.Embed(
      self.num_classes,
      self.width,
      embedding_init=nn.initializers.normal(1.0),
      dtype=self.dtype,
      name='embedding',
    )
    return Conditioning(context=table(batch['label'])[:, None])

  def null(self, batch: Batch) -> Batch:
    label = jnp.full_like(batch['label'], self.num_classes - 1)
    return {**batch, 'label': label}
