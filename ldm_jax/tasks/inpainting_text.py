"""Inpainting with text: concat and cross-attention at once (Sec. 3.3)."""

import dataclasses

import numpy as np

from ldm_jax.data import masks
from ldm_jax.tasks import inpainting, text
from ldm_jax.types import Array, Batch, Conditioning


@dataclasses.dataclass(frozen=True)
class Prepare(text.Prepare):
  """Keeps the image, a mask of it and its caption's tokens."""

  masks: str = 'lama_256'

  def __post_init__(self):
    masks.check(self.masks)

  @property
  def _inpainting(self) -> inpainting.Prepare:
    return inpainting.Prepare(self.masks)

  def __call__(self, example: dict, rng: np.random.Generator) -> dict:
    return {
      **text.Prepare.__call__(self, example, rng),
      **self._inpainting(example, rng),
    }

  def arrays(self, given: dict) -> dict:
    """image, mask, and text or tokens -> image, mask, tokens."""
    return {
      **text.Prepare.arrays(self, given),
      **self._inpainting.arrays(given),
    }

  def blank(self, size: int) -> dict:
    return {
      **text.Prepare.blank(self, size),
      **self._inpainting.blank(size),
    }

  def size_of(self, arrays: dict) -> tuple[int, int]:
    return self._inpainting.size_of(arrays)

  def finish(self, drawn: Array, arrays: Batch) -> Array:
    return self._inpainting.finish(drawn, arrays)

  def show(self, arrays: dict, size: tuple[int, int]) -> np.ndarray:
    return self._inpainting.show(arrays, size)


class InpaintingText(text.Text):
  """tokens, image, mask -> context and concat; the null drops the text."""

  def __call__(self, batch: Batch, encode, train: bool) -> Conditioning:
    told = text.Text.__call__(self, batch, encode, train)
    return told.replace(concat=inpainting.masked_latent(batch, encode))
