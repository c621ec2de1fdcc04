"""Images made small and worse, as super-resolution trains on them."""

import numpy as np
from PIL import Image

from ldm_jax.types import UserError


def bicubic(
  rng: np.random.Generator, image: np.ndarray, factor: int
) -> np.ndarray:
  """Bicubic with antialiasing, as SR3 and ADM have it."""
  del rng
  height, width = image.shape[:2]
  size = (width // factor, height // factor)
  small = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
  return np.asarray(small)


DEGRADATIONS = {'bicubic': bicubic}


def check(name: str) -> None:
  """Raises UserError for a name that is not in DEGRADATIONS."""
  if name not in DEGRADATIONS:
    raise UserError(
      f'degradation={name!r} is unknown; allowed: {", ".join(DEGRADATIONS)}.'
    )


def degrade(
  rng: np.random.Generator, image: np.ndarray, factor: int, name: str
) -> np.ndarray:
  """image uint8 [H W 3] -> uint8 [H/factor W/factor 3]."""
  height, width = image.shape[:2]
  if height % factor or width % factor:
    raise UserError(
      f'An image of {height}x{width} cannot be made {factor} times smaller.'
    )
  return DEGRADATIONS[name](rng, image, factor)
