"""The frozen first stage, as the diffusion model sees it."""

import dataclasses

import flax.linen as nn

from ldm_jax.types import Array, Params


@dataclasses.dataclass(frozen=True)
class Codec:
  """Between images [B H W 3] in [-1, 1] and latents [B h w c] at unit scale.

  `frozen` holds 'first_stage' (its parameters) and 'scale_factor' (a scalar):
  arguments and not closures, so that no weight is baked into a program.
  """

  first_stage: nn.Module

  def encode(
    self, frozen: Params, image: Array, rng: Array | None = None
  ) -> Array:
    """A posterior sample with rng, the mode without; VQ: not quantised."""
    z = self.first_stage.apply(
      {'params': frozen['first_stage']}, image, rng, method='encode'
    )
    return z * frozen['scale_factor']

  def decode(self, frozen: Params, z: Array) -> Array:
    """Latents to images; VQ quantises first."""
    return self.first_stage.apply(
      {'params': frozen['first_stage']},
      z / frozen['scale_factor'],
      method='decode',
    )
