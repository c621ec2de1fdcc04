"""Whether samples show what was asked for, in the eyes of scenes' reader."""

from collections.abc import Sequence

import numpy as np

from ldm_jax.data import scene_reader
from ldm_jax.types import UserError


def scene_accuracy(
  images: np.ndarray, captions: Sequence[str]
) -> dict[str, float]:
  """Shares of images [N H W 3] uint8 that obey their captions, by aspect."""
  try:
    return scene_reader.scores(images, captions)
  except ValueError as error:
    raise UserError(
      f'The samples were not drawn from captions of scenes: {error}'
    ) from error
