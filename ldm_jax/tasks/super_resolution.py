"""Super-resolution: the U-Net sees the small image (Sec. 4.4, App. D.6)."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldm_jax.data import degrade, images, inputs, panels
from ldm_jax.types import Batch, Conditioning, UserError


@dataclasses.dataclass(frozen=True)
class Prepare:
  """Keeps the image and makes `low_res` of it, 1 / factor of its sides.

  `degradation` is a name in data.degrade.DEGRADATIONS. The first stage's f
  must be `factor` too: the small image is joined to the latent as it is.
  """

  factor: int = 4
  degradation: str = 'bicubic'

  needs = ()

  def __post_init__(self):
    degrade.check(self.degradation)

  def __call__(self, example: dict, rng: np.random.Generator) -> dict:
    image = example['image']
    if 'low_res' in example:
      small = example['low_res']
    else:
      pixels = images.to_uint8(image)
      small = degrade.degrade(rng, pixels, self.factor, self.degradation)
    return {'image': image, **self.arrays({'low_res': small})}

  def arrays(self, given: dict) -> dict:
    """low_res [(B) h w 3], uint8 or float in [-1, 1] -> float32."""
    if 'low_res' not in given:
      raise UserError('This run enlarges images: give low_res, a small image.')
    return {'low_res': inputs.image('low_res', given['low_res'])}

  def blank(self, size: int) -> dict:
    side = size // self.factor
    return {'low_res': np.zeros((side, side, 3), np.float32)}

  def size_of(self, arrays: dict) -> tuple[int, int]:
    """(height, width) of the images to draw."""
    height, width = arrays['low_res'].shape[-3:-1]
    return height * self.factor, width * self.factor

  def check_size(self, arrays: dict, unit: int) -> None:
    """Raises UserError where the enlarged sides are no multiples of `unit`."""
    sides, unit = arrays['low_res'].shape[-3:-1], unit // self.factor
    if any(side % unit for side in sides):
      small = 'x'.join(map(str, sides))
      large = 'x'.join(str(side * self.factor) for side in sides)
      near = 'x'.join(str(max(side // unit, 1) * unit) for side in sides)
      raise UserError(
        f'The small image has {small} pixels ({large} when {self.factor} times '
        f'as large); its sides must be multiples of {unit}, such as {near}: '
        'crop or resize the file.'
      )

  def show(self, arrays: dict, size: tuple[int, int]) -> np.ndarray:
    """The small images in large pixels: uint8 [B H W 3]."""
    return panels.enlarged(images.to_uint8(arrays['low_res']), size)


class SuperResolution(nn.Module):
  """low_res [B h w 3] -> concat, untouched; the null is a grey image."""

  def __call__(self, batch: Batch, encode, train: bool) -> Conditioning:
    del encode, train
    return Conditioning(concat=batch['low_res'])

  def null(self, batch: Batch) -> Batch:
    return {**batch, 'low_res': jnp.zeros_like(batch['low_res'])}
