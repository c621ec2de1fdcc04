"""Inpainting with text: concat and cross-attention at once (Sec. 3.3)."""

import dataclasses

import numpy as np

from ldm_jax.tasks import inpainting, text
from ldm_jax.types import Batch, Conditioning


@dataclasses.dataclass(frozen=True)
class AlsoMasked(inpainting.Prepare):
  """A mask of the image too; stands before the Prepare of a text task."""

  latent_is_enough = False  # The image is masked before it is encoded.
  needs = ('text',)

  @property
  def _of_text(self):
    return super(inpainting.Prepare, self)

  def __call__(self, example: dict, rng: np.random.Generator) -> dict:
    told = self._of_text.__call__(example, rng)
    return {**told, **super().__call__(example, rng)}

  def arrays(self, given: dict) -> dict:
    """image, mask, and text or tokens -> image, mask, tokens."""
    return {**self._of_text.arrays(given), **super().arrays(given)}

  def blank(self, size: int) -> dict:
    return {**self._of_text.blank(size), **super().blank(size)}


@dataclasses.dataclass(frozen=True)
class Prepare(AlsoMasked, text.Prepare):
  """Keeps the image, a mask of it and its caption's tokens."""


class AlsoMaskedImage(inpainting.MaskedImage):
  """concat beside the context; stands before the conditioner of a text task.

  The null is the text's alone: the image is told all the same.
  """

  def __call__(self, batch: Batch, encode, train: bool) -> Conditioning:
    told = super().__call__(batch, encode, train)
    return told.replace(concat=self.channels(batch, encode))


class InpaintingText(AlsoMaskedImage, text.Text):
  """tokens, image, mask -> context and concat; the null drops the text."""
