"""Class-conditional generation: one learned token per class (Sec. 4.2)."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldm_jax.types import Batch, Conditioning


def prepare(example: dict, rng: np.random.Generator) -> dict:
  del rng
  return {'image': example['image'], 'label': np.int32(example['label'])}


class ClassLabel(nn.Module):
  """label [B] -> context [B 1 width].

  `num_classes` counts the table's rows. Where the condition is dropped in
  training, the last row is the null: 1001 rows for ImageNet, null 1000.
  """

  num_classes: int
  width: int
  dtype: jnp.dtype = jnp.float32

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
