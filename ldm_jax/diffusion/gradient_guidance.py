"""Guidance by the gradient of a log-probability (App. C).

In the words of scores, eps_theta = -noise * grad log p(z_t); what is drawn from
p(z_t) p(y | z_t)^scale therefore has

  eps = eps_theta - noise * scale * grad log p(y | z_t)
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.types import Array, Denoiser, UserError


@flax.struct.dataclass
class Guide:
  """A change to the Denoiser, as sampling takes it.

  Arrays are traced, and `wrap` is part of the compiled program: equal ones
  compile nothing anew.

  Attributes:
    wrap: (denoise, schedule, decode, rows, shared) -> Denoiser, where decode
      gives images [B H W 3] of latents, and can be differentiated.
    rows: arrays [num ...], each image its own row.
    shared: arrays that all images share, such as weights and scales.
  """

  wrap: Callable = flax.struct.field(pytree_node=False)
  rows: dict[str, Array]
  shared: Any = None

  def for_images(self, num: int) -> 'Guide':
    """With a row for each of `num` images; raises UserError."""

    def rows(key, x):
      x = np.asarray(x)
      if len(x) not in (1, num):
        raise UserError(
          f'{len(x)} values of {key!r} in a guide for num={num} images; give '
          'one, or one for each.'
        )
      return np.broadcast_to(x, (num, *x.shape[1:]))

    return self.replace(rows={k: rows(k, x) for k, x in self.rows.items()})

  def taking(self, take: Callable[[Array], Array]) -> 'Guide':
    """With those of its rows that `take` takes."""
    return self.replace(rows=jax.tree.map(take, self.rows))


def by_classifier(
  denoise: Denoiser,
  schedule: Schedule,
  log_p: Callable[[Array, Array], Array],
  scale: Array,
) -> Denoiser:
  """Guided by log_p(z_t [B h w c], t [B]) -> log p(y | z_t) [B].

  Dhariwal & Nichol 2021, Alg. 2.
  """

  def guided(z, t):
    grad = jax.grad(lambda z: jnp.sum(log_p(z, t)))(z)
    _, noise = schedule.at(t)
    return denoise(z, t) - noise * scale * grad

  return guided


def by_image(
  denoise: Denoiser,
  schedule: Schedule,
  decode: Callable[[Array], Array],
  distance: Callable[[Array], Array],
  scale: Array,
) -> Denoiser:
  """Guided by log p = -distance / 2 of the image that z_t foretells.

  Eq. 16 and 17: p(y | z_t) is N(y; T(D(z_0_hat(z_t))), 1), and distance(x) [B]
  is ||y - T(x)||^2 of an image x [B H W 3]. The gradient goes through decoder
  and U-Net.
  """

  def log_p(z, t):
    eps = denoise(z, t)
    signal, noise = schedule.at(t)
    z_0 = (z - noise * eps) / signal
    return -jnp.sum(distance(decode(z_0))) / 2, eps

  def guided(z, t):
    grad, eps = jax.grad(log_p, has_aux=True)(z, t)
    _, noise = schedule.at(t)
    return eps - noise * scale * grad

  return guided
