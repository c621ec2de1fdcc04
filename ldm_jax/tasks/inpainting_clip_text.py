"""Inpainting with text as Stable Diffusion 1.x has it: CLIP, frozen."""

import dataclasses

from ldm_jax.tasks import clip_text, inpainting_text


@dataclasses.dataclass(frozen=True)
class Prepare(inpainting_text.AlsoMasked, clip_text.Prepare):
  """Keeps the image, a mask of it and its caption's tokens."""


class InpaintingClipText(inpainting_text.AlsoMaskedImage, clip_text.ClipText):
  """tokens, image, mask -> context and concat; the null drops the text.

  By default the channels are those of the released Stable Diffusion: the mask,
  0 or 1, and the latent of an image with grey holes.
  """

  hole: float = 0.0
  mask_low: float = 0.0
  mask_first: bool = True
