"""What the diffusion stage starts from: a first stage and its scale."""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from absl import logging

from ldm_jax.first_stage.codec import Codec
from ldm_jax.training import checkpoint
from ldm_jax.types import Array, Batch, Params, UserError


def load_first_stage(workdir: str) -> Params:
  """The parameters of a first stage's run, or of any run that holds one."""
  items, _ = checkpoint.load_items(workdir, ['first_stage'])
  return items['first_stage']


def read_scale(workdir: str) -> float:
  """The scale_factor that a run's checkpoint keeps."""
  _, meta = checkpoint.load_items(workdir, [])
  if 'scale_factor' not in meta:
    raise UserError(
      f'{workdir} knows no scale_factor, as a diffusion run does; give the '
      'workdir of one, or set scale_factor.'
    )
  return meta['scale_factor']


def estimate_scale(
  codec: Codec, params: Params, batches: Iterable[Batch], rng: Array
) -> float:
  """1 / std over all elements of the latents of several batches (App. G).

  The release looks at the first batch only; latents are posterior samples, as
  they are in training.
  """

  @jax.jit
  def moments(frozen, image, rng):
    z = codec.encode(frozen, image, rng)
    return jnp.mean(z), jnp.mean(jnp.square(z))

  frozen = {'first_stage': params, 'scale_factor': jnp.float32(1.0)}
  found = [
    jax.device_get(moments(frozen, b['image'], jax.random.fold_in(rng, i)))
    for i, b in enumerate(batches)
  ]
  mean = math.fsum(float(m) for m, _ in found) / len(found)
  square = math.fsum(float(s) for _, s in found) / len(found)
  std = math.sqrt(max(square - mean**2, 0.0))
  if not std > 0.0:
    raise UserError(
      'The first stage maps every image to the same latent, so there is '
      'nothing to scale; is it trained?'
    )
  return 1.0 / std


def warn_if_off_scale(step: int, latent_std: float):
  """Latents far from unit scale mean that the factor is not this data's."""
  if not 0.8 <= latent_std <= 1.25:
    logging.warning(
      "Step %d: the latents' standard deviation is %.3f; training expects "
      'about 1. Was scale_factor found on other data?',
      step,
      latent_std,
    )
