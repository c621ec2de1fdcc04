"""Guidance turns one Denoiser into another; no sampler knows that it exists."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.types import Array, Conditioning, Denoiser

Model = Callable[[Array, Array, Conditioning], Array]


def classifier_free(
  model: Model, cond: Conditioning, null: Conditioning, scale: Array
) -> Denoiser:
  """eps(null) + scale * (eps(cond) - eps(null)), in one batch of 2B.

  Ho & Salimans 2022, in the form whose scale 1 is the conditional model.
  """
  both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), null, cond)

  def denoise(z, t):
    eps = model(jnp.concatenate([z, z]), jnp.concatenate([t, t]), both)
    eps_null, eps_cond = jnp.split(eps, 2)
    return eps_null + scale * (eps_cond - eps_null)

  return denoise
