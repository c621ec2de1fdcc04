"""Class-conditional generation: one learned token per class (Sec. 4.2)."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldm_jax.types import Batch, Conditioning, UserError

IMAGENET_AND_NULL = 1001


@dataclasses.dataclass(frozen=True)
class Prepare:
  """Keeps the image and its label.

  `null_label` says whether the last of the rows is the null, and no class.
  Unset, it is where the run's `null_prob` is above 0. Where that is None, an
  import that says neither, guidance takes the last for the null, as the release
  does, and it may be drawn unless it comes after ImageNet's classes.
  """

  num_classes: int
  null_label: bool | None = None
  null_prob: float | None = 0.0

  latent_is_enough = True  # of the image
  needs = ('label',)

  def __post_init__(self):
    if self.null_prob and not self.has_null:
      raise UserError(
        f'null_prob={self.null_prob} trains the null, and task.null_label='
        'False says that there is none: set null_prob to 0, or leave '
        'task.null_label out and make the last of task.num_classes the null.'
      )

  @property
  def has_null(self) -> bool:
    """Whether there is, or may be, a null, which guidance needs."""
    return self._said is not False

  @property
  def num_labels(self) -> int:
    """How many classes there are, without what is known to be the null."""
    of_imagenet = self.num_classes == IMAGENET_AND_NULL
    return self.num_classes - (
      of_imagenet if self._said is None else self._said
    )

  @property
  def _said(self) -> bool | None:
    """Whether the last row is the null; None where nobody says."""
    if self.null_label is None and self.null_prob is not None:
      return self.null_prob > 0
    return self.null_label

  def __call__(self, example: dict, rng: np.random.Generator) -> dict:
    del rng
    label = self.arrays({'label': example['label']})['label']
    return {'image': example['image'], 'label': label}

  def arrays(self, inputs: dict) -> dict:
    """label (an int or [B]) -> int32; out of range is a UserError."""
    if 'label' not in inputs:
      raise UserError('This run is class-conditional: give a label.')
    label = np.asarray(inputs['label'], np.int32)
    classes = self.num_labels
    outside = label[(label < 0) | (label >= classes)]
    if outside.size:
      null = self.num_classes - classes
      last = ', the last row being the null' if null else ''
      raise UserError(
        f'label {outside.flat[0]} is outside 0 to {classes - 1} '
        f'(task.num_classes={self.num_classes}{last}); data with labels up to '
        f'{outside.max()} needs '
        f'task.num_classes={outside.max() + 1 + null}.'
      )
    return {'label': label}

  def blank(self, size: int) -> dict:
    del size
    return {'label': np.int32(0)}


class ClassLabel(nn.Module):
  """label [B] -> context [B 1 width].

  `num_classes` counts the table's rows. Where there is a null (see Prepare),
  it is the last row: 1001 rows for ImageNet, null 1000.
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
