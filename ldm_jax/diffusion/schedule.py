"""Noise schedules: how much signal is left at each timestep."""

import flax.struct
import jax.numpy as jnp
import numpy as np

from ldm_jax.types import Array, UserError


@flax.struct.dataclass
class Schedule:
  """Variance-preserving: z_t = signal[t] * z_0 + noise[t] * eps.

  Host arrays in float64, so that solvers tabulate without round-off; what
  enters a compiled function is cast once, by the properties.
  """

  alpha_bar: np.ndarray = flax.struct.field(pytree_node=False)  # [T], falling

  @property
  def num_timesteps(self) -> int:
    return self.alpha_bar.shape[0]

  @property
  def signal(self) -> Array:
    """sqrt(alpha_bar) [T], float32."""
    return jnp.asarray(np.sqrt(self.alpha_bar), jnp.float32)

  @property
  def noise(self) -> Array:
    """sqrt(1 - alpha_bar) [T], float32."""
    return jnp.asarray(np.sqrt(1.0 - self.alpha_bar), jnp.float32)

  @property
  def snr(self) -> np.ndarray:
    """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) [T], float64."""
    return self.alpha_bar / (1.0 - self.alpha_bar)


def make(
  kind: str = 'linear',
  num_timesteps: int = 1000,
  start: float = 0.0015,
  end: float = 0.0195,
  cosine_s: float = 8e-3,
) -> Schedule:
  """The schedule of that name, as the release names them.

  Args:
    kind: 'linear' (betas whose square roots are evenly spaced), 'cosine',
      'sqrt_linear' (evenly spaced betas), 'sqrt' (their square roots).
    num_timesteps: T.
    start: the first beta; unused by 'cosine'.
    end: the last beta; unused by 'cosine'.
    cosine_s: the cosine schedule's offset (Nichol & Dhariwal 2021).

  Raises:
    UserError: an unknown kind, or betas outside (0, 1).
  """
  if num_timesteps < 1:
    raise UserError(f'schedule.num_timesteps={num_timesteps} must be >= 1.')
  if not 0.0 < start <= end < 1.0:
    raise UserError(
      f'schedule: need 0 < start <= end < 1, got start={start}, end={end}.'
    )
  if kind == 'linear':
    beta = np.linspace(start**0.5, end**0.5, num_timesteps) ** 2
  elif kind == 'sqrt_linear':
    beta = np.linspace(start, end, num_timesteps)
  elif kind == 'sqrt':
    beta = np.linspace(start, end, num_timesteps) ** 0.5
  elif kind == 'cosine':
    u = np.arange(num_timesteps + 1) / num_timesteps
    curve = np.cos((u + cosine_s) / (1 + cosine_s) * np.pi / 2) ** 2
    beta = np.clip(1.0 - curve[1:] / curve[:-1], 0.0, 0.999)
  else:
    raise UserError(
      f'schedule.kind={kind!r} is unknown; allowed: linear, cosine, '
      'sqrt_linear, sqrt.'
    )
  return Schedule(alpha_bar=np.cumprod(1.0 - beta))
