"""A network asked window by window, for latents larger than memory allows.

MultiDiffusion (Bar-Tal et al. 2023): every window is answered as an image of
its own, and where windows overlap the answers are averaged.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.guidance import Model
from ldm_jax.types import Array, Conditioning, UserError


def windowed(model: Model, size: int, overlap: int) -> Model:
  """The model on windows of size x size latents that overlap by `overlap`.

  Windows are walked one after another, so that memory is that of one.
  Conditions that lie beside the latent (`concat`) are cut with it; all others
  are told to every window. Weights fall towards a window's sides, and of all
  windows sum to 1. A latent that fits into one window is answered as it is.
  """

  def predict(z: Array, t: Array, cond: Conditioning) -> Array:
    sides = [min(size, side) for side in z.shape[1:3]]
    if sides == list(z.shape[1:3]):
      return model(z, t, cond)
    corners = np.stack(
      np.meshgrid(
        *(starts(z.shape[1 + i], sides[i], overlap) for i in (0, 1)),
        indexing='ij',
      ),
      -1,
    ).reshape(-1, 2)
    weight = jnp.asarray(np.outer(*(bump(n, overlap) for n in sides)))
    weight = weight[None, :, :, None]
    cut = lambda x, at: jax.lax.dynamic_slice(
      x, (0, at[0], at[1], 0), (x.shape[0], *sides, x.shape[-1])
    )
    whole = lambda x, at: jax.lax.dynamic_update_slice(
      x[0], cut(x[0], at) + x[1], (0, at[0], at[1], 0)
    )

    def body(carry, at):
      total, weights = carry
      concat = None if cond.concat is None else cut(cond.concat, at)
      out = model(cut(z, at), t, cond.replace(concat=concat))
      total = whole((total, weight * out), at)
      return (total, whole((weights, weight), at)), None

    out = jax.eval_shape(
      lambda: model(
        cut(z, corners[0]),
        t,
        cond.replace(
          concat=None if cond.concat is None else cut(cond.concat, corners[0])
        ),
      )
    )
    blank = jnp.zeros((*z.shape[:3], out.shape[-1]), out.dtype)
    carry = (blank, jnp.zeros((1, *z.shape[1:3], 1), weight.dtype))
    (total, weights), _ = jax.lax.scan(body, carry, jnp.asarray(corners))
    return total / weights

  return predict


def starts(length: int, window: int, overlap: int) -> np.ndarray:
  """Where windows begin along a side: spread evenly, `overlap` at least."""
  count = 1
  if length > window:
    count += -(-(length - window) // (window - overlap))
  return np.rint(np.linspace(0, length - window, count)).astype(np.int32)


def bump(window: int, overlap: int) -> np.ndarray:
  """Weights [window]: 1 in the middle, ramps over the overlap at both ends."""
  away = np.minimum(np.arange(window), np.arange(window)[::-1])
  return np.minimum(1, (away + 1) / (overlap + 1)).astype(np.float32)


def in_latents(
  window: int, overlap: int | None, f: int, multiple: int
) -> tuple[int, int]:
  """(size, overlap) of windows given in pixels; a quarter overlaps unless said.

  Raises:
    UserError: windows that neither f, the first stage's downsampling, divides
      nor `multiple`, as in `check`.
  """
  overlap = window // 4 // f * f if overlap is None else overlap
  if window % f or overlap % f:
    raise UserError(
      f'window={window}, window_overlap={overlap}: both must divide by the '
      f"first stage's f={f}."
    )
  check(window // f, overlap // f, multiple)
  return window // f, overlap // f


def check(size: int, overlap: int, multiple: int):
  """Raises UserError for windows, in latents, that no U-Net of `multiple` has.

  `multiple` is what the U-Net's levels divide the sides by.
  """
  if size % multiple or size < multiple:
    raise UserError(
      f'A window of {size}x{size} latents does not divide by {multiple}, as '
      "the U-Net's levels do; take a multiple of that."
    )
  if not 0 <= overlap < size:
    raise UserError(
      f'Windows of {size} latents that overlap by {overlap}: it must be from 0 '
      f'to {size - 1}.'
    )
