"""Guidance turns one Denoiser into another; no sampler knows that it exists."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from ldm_jax.types import Array, Conditioning, Denoiser

# A network's prediction, of whatever kind: eps, v or z_0.
Model = Callable[[Array, Array, Conditioning], Array]


@flax.struct.dataclass
class Guidance:
  """How strongly, when, and how far from the model's own spread.

  Every number is traced. Without an interval guidance is everywhere.
  """

  scale: Array  # 1 is the conditional model.
  rescale: Array = 0.0  # phi of Lin et al. 2024: 0 leaves the spread, 1 resets.
  interval: tuple[Array, Array] | None = None  # [low, high] in t, ends included


def classifier_free(
  model: Model,
  cond: Conditioning,
  null: Conditioning,
  guidance: Guidance | Array,
) -> Denoiser:
  """model(null) + scale * (model(cond) - model(null)), in one batch of 2B.

  Ho & Salimans 2022, in the form whose scale 1 is the conditional model. What
  the model predicts may be eps, v or z_0: the answer is of the same kind, and
  the same whichever it is (but for the rescaling, which its authors define on
  what the model predicts).

  Outside an interval the model is asked for the condition alone, at half the
  cost (Kynkaanniemi et al. 2024).
  """
  if not isinstance(guidance, Guidance):
    guidance = Guidance(guidance)
  both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), null, cond)

  def everywhere(z, t, scale):
    out = model(jnp.concatenate([z, z]), jnp.concatenate([t, t]), both)
    out_null, out_cond = jnp.split(out, 2)
    mixed = out_null + scale * (out_cond - out_null)
    return rescaled(mixed, out_cond, guidance.rescale)

  if guidance.interval is None:
    return lambda z, t: everywhere(z, t, guidance.scale)
  low, high = guidance.interval

  def denoise(z, t):
    inside = (low <= t) & (t <= high)
    scale = jnp.where(inside, guidance.scale, 1.0)[:, None, None, None]
    return jax.lax.cond(
      jnp.any(inside),
      lambda: everywhere(z, t, scale),
      lambda: model(z, t, cond),
    )

  return denoise


def rescaled(mixed: Array, cond: Array, amount: Array) -> Array:
  """Guided answers [B h w c] brought back to the spread of the conditional's.

  Lin et al. 2024, Alg. 2: amount 0 changes nothing, 1 makes the standard
  deviations of each example equal.
  """
  spread = lambda x: jnp.std(x, axis=(1, 2, 3), keepdims=True)
  ratio = spread(cond) / jnp.maximum(spread(mixed), 1e-12)
  return mixed * (1 + amount * (ratio - 1))
