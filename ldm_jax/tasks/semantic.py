"""Semantic synthesis: the U-Net sees a map of classes (Sec. 4.3.2)."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldm_jax.data import inputs, panels
from ldm_jax.types import Array, Batch, Conditioning, UserError

# No class: all zeros among the one-hot vectors.
NOTHING = -1


@dataclasses.dataclass(frozen=True)
class Prepare:
  """Keeps the image and its map of classes.

  `ignore_index` is no class; 255, unless there are so many.
  """

  num_classes: int
  ignore_index: int = 255

  needs = ('segmentation',)

  def __call__(self, example: dict, rng: np.random.Generator) -> dict:
    del rng
    arrays = self.arrays({'segmentation': example['segmentation']})
    return {'image': example['image'], **arrays}

  def arrays(self, given: dict) -> dict:
    """segmentation [(B) H W], classes -> int32; -1 is no class."""
    if 'segmentation' not in given:
      raise UserError('This run draws from maps: give a segmentation.')
    classes = inputs.integers(
      'segmentation', given['segmentation'], '[(B) H W], class indices'
    )
    if classes.ndim not in (2, 3):
      raise UserError(
        f'segmentation has the shape {list(classes.shape)}; it must be [H W]'
        ' or [B H W].'
      )
    if self.ignore_index != 255 or self.num_classes <= 255:
      classes = np.where(classes == self.ignore_index, NOTHING, classes)
    outside = classes[(classes < NOTHING) | (classes >= self.num_classes)]
    if outside.size:
      raise UserError(
        f'segmentation holds class {outside.flat[0]}; allowed are 0 to'
        f' {self.num_classes - 1} (task.num_classes), and {self.ignore_index}'
        ' (task.ignore_index) or -1 for none.'
      )
    return {'segmentation': classes.astype(np.int32)}

  def blank(self, size: int) -> dict:
    return {'segmentation': np.zeros((size, size), np.int32)}

  def size_of(self, arrays: dict) -> tuple[int, int]:
    """(height, width) of the images to draw."""
    return arrays['segmentation'].shape[-2:]

  def show(self, arrays: dict, size: tuple[int, int]) -> np.ndarray:
    """The maps in colours: uint8 [B H W 3]."""
    del size
    return panels.classes(arrays['segmentation'])


class Semantic(nn.Module):
  """segmentation [B H W] -> concat [B h w channels]; the null has no class.

  One-hot vectors, halved `stages` times, then a 1x1 convolution without bias.
  """

  num_classes: int
  channels: int = 3
  stages: int = 2
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, batch: Batch, encode, train: bool) -> Conditioning:
    del encode, train
    mapper = ChannelMapper(
      self.num_classes, self.channels, name='channel_mapper'
    )
    x = mapper(batch['segmentation'])
    for _ in range(self.stages):
      x = halve(x)
    return Conditioning(concat=x.astype(self.dtype))

  def null(self, batch: Batch) -> Batch:
    nothing = jnp.full_like(batch['segmentation'], NOTHING)
    return {**batch, 'segmentation': nothing}


class ChannelMapper(nn.Module):
  """A 1x1 convolution of one-hot vectors: classes [..] -> [.. features].

  It looks its rows up, so the one-hot image (182 channels at full size) never
  exists; and it comes before the halvings, with which it commutes.
  """

  num_classes: int
  features: int

  @nn.compact
  def __call__(self, classes: Array) -> Array:
    kernel = self.param(
      'kernel',
      # One input in num_classes is on, so the outputs have unit variance.
      nn.initializers.normal(1.0),
      (1, 1, self.num_classes, self.features),
    )
    known = (classes >= 0)[..., None]
    return jnp.where(known, kernel[0, 0][jnp.maximum(classes, 0)], 0)


def halve(x: Array) -> Array:
  """Half the sides of [B H W C]: torch's bilinear, without antialiasing.

  At a half exactly, that is the mean of 2x2; an odd last row is left out.
  """
  b, h, w, c = x.shape
  x = x[:, : h // 2 * 2, : w // 2 * 2]
  return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
