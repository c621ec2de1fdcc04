"""The objectives of the first stages (paper, App. G, Eq. 25), as released."""

import dataclasses

import jax
import jax.numpy as jnp

from ldm_jax.types import Array, UserError


@dataclasses.dataclass(frozen=True)
class LossSpec:
  """What a first stage is trained for; a field per key of `config.loss`.

  The KL model's reconstruction term is a sum over pixels and channels, the
  VQ model's a mean, so weights do not carry over from one to the other.
  """

  pixel: str = 'l1'  # or 'l2'
  perceptual_weight: float = 1.0
  lpips_path: str | None = None  # VGG-16 and linear heads; see lpips.load.
  kl_weight: float = 1e-6
  codebook_weight: float = 1.0
  # The scalar log-variance of the KL model's reconstruction term. The release
  # declares it trainable and then leaves it out of its optimizer.
  learn_logvar: bool = False
  logvar_init: float = 0.0
  disc_weight: float = 0.5  # 0: no discriminator is built.
  disc_start: int = 50_001  # First step of the adversarial game.
  disc_warmup: int = 0  # Steps before it in which the discriminator learns.
  disc_loss: str = 'hinge'  # or 'vanilla'
  disc_layers: int = 3
  disc_channels: int = 64
  adaptive: bool = True

  def __post_init__(self):
    for field, allowed in (
      ('pixel', ('l1', 'l2')),
      ('disc_loss', ('hinge', 'vanilla')),
    ):
      value = getattr(self, field)
      if value not in allowed:
        raise UserError(
          f'loss.{field}={value!r} is unknown; allowed: {", ".join(allowed)}.'
        )
    for field in (
        'perceptual_weight', 'kl_weight', 'codebook_weight', 'disc_weight',
        'disc_start', 'disc_warmup',
    ):  # fmt: skip
      value = getattr(self, field)
      if value < 0:
        raise UserError(f'loss.{field}={value} is negative; use 0 or more.')
    for field in ('disc_layers', 'disc_channels'):
      value = getattr(self, field)
      if value < 1:
        raise UserError(f'loss.{field}={value} is too small; use 1 or more.')
    if self.disc_warmup > self.disc_start:
      raise UserError(
        f'loss.disc_warmup={self.disc_warmup} is longer than the '
        f'{self.disc_start} steps before disc_start; shorten it or start '
        'the discriminator later.'
      )


def pixel_error(kind: str, x: Array, y: Array) -> Array:
  """|x - y| ('l1') or its square ('l2'), elementwise."""
  error = x - y
  return jnp.abs(error) if kind == 'l1' else jnp.square(error)


def kl_nll(error: Array, perceptual: Array, logvar: Array) -> Array:
  """The KL model's reconstruction term: summed over pixels, mean over images.

  error [B H W C] is per pixel and channel; perceptual [B] is already
  weighted, and joins every pixel and channel before the sum.
  """
  error = error + perceptual[:, None, None, None]  # [B] -> [B 1 1 1]
  nll = error / jnp.exp(logvar) + logvar
  return jnp.sum(nll) / error.shape[0]


def vq_nll(error: Array, perceptual: Array) -> Array:
  """The VQ model's reconstruction term: the mean of everything."""
  return jnp.mean(error) + jnp.mean(perceptual)


def kl_divergence(mean: Array, logvar: Array) -> Array:
  """KL(N(mean, exp(logvar)) || N(0, 1)): summed over a latent, mean over B."""
  terms = jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar
  return 0.5 * jnp.sum(terms) / mean.shape[0]


def codebook_loss(z: Array, quantized: Array) -> Array:
  """mean (sg[q] - z)^2 + 0.25 mean (q - sg[z])^2.

  van den Oord et al. 2017, Eq. 3, put the 0.25 on the other term; this is
  what the released models were trained with.
  """
  sg = jax.lax.stop_gradient
  commitment = jnp.mean(jnp.square(sg(quantized) - z))
  codebook = jnp.mean(jnp.square(quantized - sg(z)))
  return commitment + 0.25 * codebook


def discriminator_loss(kind: str, real: Array, fake: Array) -> Array:
  """What the discriminator minimises, from its logits."""
  if kind == 'hinge':
    real, fake = jax.nn.relu(1.0 - real), jax.nn.relu(1.0 + fake)
  else:
    real, fake = jax.nn.softplus(-real), jax.nn.softplus(fake)
  return 0.5 * (jnp.mean(real) + jnp.mean(fake))


def generator_loss(fake: Array) -> Array:
  """What the autoencoder minimises, from the discriminator's logits."""
  return -jnp.mean(fake)


def adaptive_weight(nll_grad: Array, generator_grad: Array) -> Array:
  """|nll_grad| / (|generator_grad| + 1e-4), at most 1e4 (Esser et al., Eq. 7).

  Both are gradients at the decoder's last kernel.
  """
  norm = lambda g: jnp.sqrt(jnp.sum(jnp.square(g.astype(jnp.float32))))
  weight = norm(nll_grad) / (norm(generator_grad) + 1e-4)
  return jax.lax.stop_gradient(jnp.clip(weight, 0.0, 1e4))
