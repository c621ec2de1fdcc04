"""The training objective of latent diffusion (Sec. 3.2)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.prediction import PREDICTIONS
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.types import Array, UserError


@dataclasses.dataclass(frozen=True)
class LossSpec:
  """The objective's settings; the defaults are Eq. 2.

  loss = simple_weight * mean(w_t L / exp(logvar_t) + logvar_t)
       + elbo_weight * mean(lvlb_t L)
  with L the l1 or l2 distance averaged over a latent, w_t the min-SNR weight
  (Hang et al. 2023) where min_snr_gamma > 0, and logvar_t zero unless learned.

  `timesteps` says which t are drawn: 'uniform', or 'logit_normal', where the
  logit of t / T is normal with `logit_mean` and `logit_std` (Esser et al. 2024,
  Sec. 3.1): fewer at the ends, where little is decided.
  """

  prediction: str = 'eps'
  kind: str = 'l2'
  simple_weight: float = 1.0
  elbo_weight: float = 0.0
  learn_logvar: bool = False
  logvar_init: float = 0.0
  min_snr_gamma: float = 0.0
  timesteps: str = 'uniform'
  logit_mean: float = 0.0
  logit_std: float = 1.0

  def __post_init__(self):
    if self.prediction not in PREDICTIONS:
      raise UserError(
        f'loss.prediction={self.prediction!r}; allowed: '
        f'{", ".join(PREDICTIONS)}.'
      )
    if self.kind not in ('l1', 'l2'):
      raise UserError(f"loss.kind={self.kind!r}; allowed: 'l1', 'l2'.")
    if self.timesteps not in ('uniform', 'logit_normal'):
      raise UserError(
        f"loss.timesteps={self.timesteps!r}; allowed: 'uniform', "
        "'logit_normal'."
      )
    if self.logit_std <= 0:
      raise UserError(f'loss.logit_std={self.logit_std} must be above 0.')


def add_noise(schedule: Schedule, z: Array, t: Array, eps: Array) -> Array:
  """Draws z_t from q(z_t | z_0): z, eps [B h w c], t [B]."""
  return (
    per_example(schedule.signal, t) * z + per_example(schedule.noise, t) * eps
  )


def per_example(levels: Array, t: Array) -> Array:
  """levels [T] at t [B] -> [B 1 1 1]."""
  return levels[t][:, None, None, None]


def diffusion_loss(
  spec: LossSpec,
  schedule: Schedule,
  predict: Callable[[Array, Array], Array],
  z: Array,
  rng: Array,
  logvar: Callable[[Array], Array] | None = None,
) -> tuple[Array, dict[str, Array]]:
  """Per-example loss [B] of the latents z [B h w c], and its parts.

  Args:
    spec: which objective.
    schedule: the noise schedule.
    predict: (z_t, t) -> the network's raw prediction [B h w c].
    z: clean latents at unit scale.
    rng: decides t and eps.
    logvar: t [B] -> learned log-variances [B], where there are any.
  """
  t_rng, eps_rng = jax.random.split(rng)
  t = draw_timesteps(spec, schedule.num_timesteps, z.shape[0], t_rng)
  eps = jax.random.normal(eps_rng, z.shape)
  return loss_at(spec, schedule, predict, z, t, eps, logvar)


def draw_timesteps(
  spec: LossSpec, num_timesteps: int, count: int, rng: Array
) -> Array:
  """t [count], whole numbers in [0, num_timesteps)."""
  if spec.timesteps == 'uniform':
    return jax.random.randint(rng, (count,), 0, num_timesteps)
  logits = spec.logit_mean + spec.logit_std * jax.random.normal(rng, (count,))
  t = jnp.floor(num_timesteps * jax.nn.sigmoid(logits)).astype(jnp.int32)
  return jnp.minimum(t, num_timesteps - 1)  # A sigmoid rounds to 1.


def loss_at(spec, schedule, predict, z, t, eps, logvar=None):
  """`diffusion_loss` at given t [B] and eps [B h w c]."""
  z_t = add_noise(schedule, z, t, eps)
  target = {
    'eps': lambda: eps,
    'x0': lambda: z,
    'v': lambda: (
      per_example(schedule.signal, t) * eps - per_example(schedule.noise, t) * z
    ),
  }[spec.prediction]()
  error = target - predict(z_t, t)
  distance = jnp.abs(error) if spec.kind == 'l1' else jnp.square(error)
  simple = jnp.mean(distance, axis=(1, 2, 3))  # [B]

  loss = simple
  if spec.min_snr_gamma:
    loss = min_snr_weight(spec, schedule)[t] * loss
  if logvar is not None:
    loss = loss / jnp.exp(logvar(t)) + logvar(t)
  loss = spec.simple_weight * loss
  parts = {'loss_simple': simple}
  if spec.elbo_weight:
    parts['loss_vlb'] = elbo_weights(spec, schedule)[t] * simple
    loss = loss + spec.elbo_weight * parts['loss_vlb']
  return loss, parts


def min_snr_weight(spec: LossSpec, schedule: Schedule) -> Array:
  """min(SNR, gamma) over what the prediction's own loss weighs by SNR: [T]."""
  snr = schedule.snr
  clipped = np.minimum(snr, spec.min_snr_gamma)
  weight = {'eps': clipped / snr, 'v': clipped / (snr + 1), 'x0': clipped}
  return jnp.asarray(weight[spec.prediction], jnp.float32)


def elbo_weights(spec: LossSpec, schedule: Schedule) -> Array:
  """lvlb_t [T]: the variational bound's weight of each timestep's L2.

  As released, the first entry, which is infinite, repeats the second.
  """
  a = schedule.alpha_bar
  a_prev = np.append(1.0, a[:-1])
  alpha = a / a_prev
  beta = 1.0 - alpha
  if spec.prediction == 'eps':
    posterior_var = beta * (1.0 - a_prev) / (1.0 - a)
    with np.errstate(divide='ignore'):
      weight = beta**2 / (2.0 * posterior_var * alpha * (1.0 - a))
  elif spec.prediction == 'x0':
    # As released: its denominator reads "2 * 1 - alpha_bar".
    weight = 0.5 * np.sqrt(a) / (2.0 - a)
  else:
    weight = np.ones_like(a)
  weight[0] = weight[min(1, len(a) - 1)]
  return jnp.asarray(weight, jnp.float32)
