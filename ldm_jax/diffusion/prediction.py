"""What the network predicts, and how each kind becomes a Denoiser."""

from collections.abc import Callable

from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.types import Array, Denoiser

PREDICTIONS = ('eps', 'v', 'x0')


def as_denoiser(
  predict: Callable[[Array, Array], Array], kind: str, schedule: Schedule
) -> Denoiser:
  """Wraps an eps-, v- or x0-predicting network into one that gives eps.

  v = signal * eps - noise * z_0 (Salimans & Ho 2022).
  """
  if kind == 'eps':
    return predict

  def denoise(z, t):
    signal, noise = schedule.at(t)
    out = predict(z, t)
    if kind == 'v':
      return signal * out + noise * z
    return (z - signal * out) / noise

  return denoise
