"""The frozen first stage, as the diffusion model sees it."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldm_jax.first_stage.autoencoder import sample
from ldm_jax.first_stage.tiles import Tiles
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


@dataclasses.dataclass(frozen=True)
class TiledCodec:
  """As Codec, tile by tile: images stay on the host."""

  tiles: Tiles

  def encode(self, frozen: Params, image: np.ndarray) -> np.ndarray:
    z = self.tiles.encode(frozen['first_stage'], image)
    return z * np.asarray(frozen['scale_factor'])

  def decode(self, frozen: Params, z: np.ndarray) -> np.ndarray:
    z = z / np.asarray(frozen['scale_factor'])
    return self.tiles.decode(frozen['first_stage'], z)


class CachedCodec(Codec):
  """A codec whose images have been encoded before; see data.latents."""

  @property
  def channels(self) -> int:
    """Of what `moments` gives: mean and log-variance, or the latent."""
    per_channel = getattr(self.first_stage, 'moments_per_channel', 1)
    return per_channel * self.first_stage.latent_channels

  def moments(self, params: Params, image: Array) -> Array:
    """image [B H W 3] -> what is kept of it, float32 [B h w channels]."""
    mean, logvar = self.first_stage.apply(
      {'params': params}, image, method='moments'
    )
    return mean if logvar is None else jnp.concatenate([mean, logvar], -1)

  def encode(
    self, frozen: Params, image: Array, rng: Array | None = None
  ) -> Array:
    """As Codec.encode; `image` is what `moments` gave."""
    z = image
    if self.channels != self.first_stage.latent_channels:
      z = sample(*jnp.split(image, 2, axis=-1), rng)
    return z * frozen['scale_factor']


def to_uint8(x: Array) -> Array:
  """[-1, 1] float -> [0, 255] uint8, rounded."""
  return jnp.round((jnp.clip(x, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
