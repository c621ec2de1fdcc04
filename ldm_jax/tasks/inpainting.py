"""Inpainting: the U-Net sees the masked image's latent and the mask.

Sec. 4.5 and App. E.2.2, as the released model has it.
"""

import dataclasses

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
    return {'image': image, **self.arrays({'image': image, 'mask': mask})}

  def arrays(self, given: dict) -> dict:
    """image [(B) H W 3] and mask [(B) H W 1], 1 = fill -> both as float32.

    The image is whole: the conditioner masks it.
    """
    for key in ('image', 'mask'):
      if key not in given:
        raise UserError(f'This run inpaints: give an image and a mask ({key}).')
    image = inputs.image('image', given['image'])
    mask = inputs.mask('mask', given['mask'])
    inputs.check_same_pixels(image, mask)
    return {'image': image, 'mask': mask}

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


class Inpainting(nn.Module):
  """image and mask -> concat [B h w c + 1]; the null knows no pixel.

  The masked image's latent is at unit scale, as the other latents, times
  `latent_scale`. The release leaves it unscaled: there this is 1 over the
  scale factor, as imports have it.
  """

  latent_scale: float = 1.0

  def __call__(self, batch: Batch, encode, train: bool) -> Conditioning:
    del train
    concat = masked_latent(batch, encode, self.latent_scale)
    return Conditioning(concat=concat)

  def null(self, batch: Batch) -> Batch:
    return {**batch, 'mask': jnp.ones_like(batch['mask'])}


def masked_latent(batch: Batch, encode, scale: float = 1.0) -> Array:
  """The masked image's latent and the mask in [-1, 1]: [B h w c + 1]."""
  image = batch['image']
  mask = (batch['mask'] >= 0.5).astype(image.dtype)
  # Masked in [0, 1] and then moved to [-1, 1], so holes are -1 and not grey.
  z = scale * encode(image * (1 - mask) - mask)
  # torch's nearest, which the released weights know: the first pixel of each
  # block. jax.image.resize would take the one in the middle.
  rows, columns = (
    np.arange(small) * big // small
    for small, big in zip(z.shape[1:3], mask.shape[1:3])
  )
  small = mask[:, rows][:, :, columns]
  return jnp.concatenate([z, 2 * small - 1], axis=-1)
