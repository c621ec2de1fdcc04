"""Inpainting: the U-Net sees the masked image's latent and the mask.

Sec. 4.5 and App. E.2.2, as the released model has it.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldm_jax.data import images, inputs, masks, panels
from ldm_jax.types import Array, Batch, Conditioning, UserError


@dataclasses.dataclass(frozen=True)
class Prepare:
  """Keeps the image and draws a mask [H W 1], 1 where it is to be filled.

  `masks` names a setting in data.masks.SETTINGS.
  """

  masks: str = 'lama_256'

  needs = ()

  def __post_init__(self):
    masks.check(self.masks)

  def __call__(self, example: dict, rng: np.random.Generator) -> dict:
    image = example['image']
    mask = example.get('mask')  # Of a folder of pairs.
    if mask is None:
      mask = masks.draw(rng, *image.shape[:2], masks.SETTINGS[self.masks])
    return _checked(image, mask)

  def arrays(self, given: dict) -> dict:
    """image [(B) H W 3] and mask [(B) H W 1], 1 = fill -> both as float32.

    The image is whole: the conditioner masks it.
    """
    for key in ('image', 'mask'):
      if key not in given:
        raise UserError(f'This run inpaints: give an image and a mask ({key}).')
    return _checked(given['image'], given['mask'])

  def blank(self, size: int) -> dict:
    return {
      'image': np.zeros((size, size, 3), np.float32),
      'mask': np.zeros((size, size, 1), np.float32),
    }

  def size_of(self, arrays: dict) -> tuple[int, int]:
    """(height, width) of the images to draw."""
    return arrays['mask'].shape[-3:-1]

  def finish(self, drawn: Array, arrays: Batch) -> Array:
    """uint8 [B H W 3], composited: known pixels are the image's, bitwise.

    Traced: part of the sampler's program.
    """
    known = jnp.rint(((arrays['image'] + 1) * 127.5).clip(0, 255))
    return jnp.where(arrays['mask'] >= 0.5, drawn, known.astype(jnp.uint8))

  def show(self, arrays: dict, size: tuple[int, int]) -> np.ndarray:
    """The images with grey holes: uint8 [B H W 3]."""
    del size
    return panels.masked(images.to_uint8(arrays['image']), arrays['mask'])


def _checked(image: Any, mask: Any) -> dict:
  image, mask = inputs.image('image', image), inputs.mask('mask', mask)
  inputs.check_same_pixels(image, mask)
  return {'image': image, 'mask': mask}


class MaskedImage(nn.Module):
  """How a masked image becomes channels; for every task that is told one.

  The latent of the image with holes is at unit scale, as the other latents,
  times `latent_scale`; in the holes the image is `hole`. The mask is 1 there,
  and `mask_low` where pixels are known. The defaults are those of the released
  model but for its latent, which it leaves unscaled: there `latent_scale` is 1
  over the scale factor, as imports have it.
  """

  latent_scale: float = 1.0
  hole: float = -1.0  # in [-1, 1]: black; 0 is grey
  mask_low: float = -1.0
  mask_first: bool = False  # the mask before the latent

  def channels(self, batch: Batch, encode) -> Array:
    """image [B H W 3], mask [B H W 1] -> concat [B h w c + 1]."""
    image = batch['image']
    mask = (batch['mask'] >= 0.5).astype(image.dtype)
    z = self.latent_scale * encode(image * (1 - mask) + self.hole * mask)
    # torch's nearest, which the released weights know: the first pixel of each
    # block. jax.image.resize would take the one in the middle.
    rows, columns = (
      np.arange(small) * big // small
      for small, big in zip(z.shape[1:3], mask.shape[1:3])
    )
    small = mask[:, rows][:, :, columns]
    both = [z, self.mask_low + (1 - self.mask_low) * small]
    return jnp.concatenate(both[::-1] if self.mask_first else both, axis=-1)


class Inpainting(MaskedImage):
  """image and mask -> concat [B h w c + 1]; the null knows no pixel."""

  def __call__(self, batch: Batch, encode, train: bool) -> Conditioning:
    del train
    return Conditioning(concat=self.channels(batch, encode))

  def null(self, batch: Batch) -> Batch:
    return {**batch, 'mask': jnp.ones_like(batch['mask'])}
