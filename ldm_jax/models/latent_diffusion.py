"""The trained half of the model: tau_theta and eps_theta together."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.types import Array, Batch, Conditioning

# image [B H W 3] -> scaled latent [B h w c]; conditioners that look at images
# (inpainting, say) are handed the first stage in this form.
Encode = Callable[[Array], Array]


class LatentDiffusion(nn.Module):
  """eps_theta(z_t, t, tau_theta(y)), Eq. 3.

  `null_prob` is the share of training examples whose condition is replaced by
  the null, which classifier-free guidance needs. `logvar_timesteps` > 0 adds a
  learned log-variance per timestep for the loss to read.
  """

  unet: nn.Module
  conditioner: nn.Module
  null_prob: float = 0.0
  logvar_timesteps: int = 0
  logvar_init: float = 0.0

  @property
  def frozen(self) -> tuple[str, ...]:
    """The parts of the parameters that training leaves as they are."""
    return (
      ('conditioner',) if getattr(self.conditioner, 'frozen', False) else ()
    )

  def setup(self):
    if self.logvar_timesteps:
      self.logvar_table = self.param(
        'logvar',
        nn.initializers.constant(self.logvar_init),
        (self.logvar_timesteps,),
      )

  def __call__(
    self,
    z: Array,
    t: Array,
    batch: Batch,
    encode: Encode,
    train: bool = False,
  ) -> Array:
    """z [B h w c], t [B] -> the network's raw prediction [B h w c]."""
    if train and self.null_prob:
      batch = self._forget(batch)
    return self.unet(z, t, self.conditioner(batch, encode, train), train)

  def condition(self, batch: Batch, encode: Encode) -> Conditioning:
    return self.conditioner(batch, encode, False)

  def null_condition(self, batch: Batch, encode: Encode) -> Conditioning:
    """What the U-Net is told when there is no condition."""
    return self.conditioner(self.conditioner.null(batch), encode, False)

  def denoise(self, z: Array, t: Array, cond: Conditioning) -> Array:
    return self.unet(z, t, cond)

  def logvar(self, t: Array) -> Array | None:
    """[B] -> log-variances [B]; None where none are learned."""
    return self.logvar_table[t] if self.logvar_timesteps else None

  def _forget(self, batch: Batch) -> Batch:
    """Replaces the condition of a random share of the examples by the null."""
    null = self.conditioner.null(batch)
    size = jax.tree.leaves(batch)[0].shape[0]
    drop = jax.random.bernoulli(self.make_rng('null'), self.null_prob, (size,))
    pick = lambda null, kept: jnp.where(
      drop.reshape(-1, *[1] * (kept.ndim - 1)), null, kept
    )
    return jax.tree.map(pick, null, batch)
