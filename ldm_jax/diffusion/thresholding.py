"""Dynamic thresholding of the predicted data (Saharia et al. 2022, Imagen)."""

import jax.numpy as jnp

from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.types import Array, Denoiser


def dynamic_threshold(
  denoise: Denoiser, schedule: Schedule, share: Array, bound: Array
) -> Denoiser:
  """A Denoiser whose z_0_hat stays within [-bound, bound].

  s is the `share` quantile of |z_0_hat| in an example, or `bound` where that
  is more; z_0_hat is clipped to [-s, s] and shrunk to the bound.

  Args:
    denoise: the Denoiser, guided already.
    schedule: of the model.
    share: in (0, 1]; Imagen's is 0.995. Traced.
    bound: the data's own range: 1 for pixels. Traced.
  """

  def limited(z, t):
    signal, noise = schedule.at(t)
    z_0 = (z - noise * denoise(z, t)) / signal
    s = jnp.quantile(jnp.abs(z_0), share, axis=(1, 2, 3), keepdims=True)
    s = jnp.maximum(s, bound)
    z_0 = jnp.clip(z_0, -s, s) * (bound / s)
    return (z - signal * z_0) / noise

  return limited
