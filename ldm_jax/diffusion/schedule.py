"""Noise schedules: how much signal is left at each timestep."""

import flax.struct
import jax
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

  @property
  def half_log_snr(self) -> np.ndarray:
    """lambda = log(signal / noise) [T], float64, falling."""
    return half_log_snr(self.alpha_bar)

  def at(self, t: Array) -> tuple[Array, Array]:
    """(signal, noise), each [B 1 1 1], at t [B], which may be fractional.

    Between timesteps lambda is linear in t, as `timestep` supposes.
    """
    table = jnp.asarray(self.half_log_snr, jnp.float32)
    level = jnp.interp(t, jnp.arange(self.num_timesteps), table)
    level = 2 * level[:, None, None, None]
    return jnp.sqrt(jax.nn.sigmoid(level)), jnp.sqrt(jax.nn.sigmoid(-level))

  def timestep(self, half_log_snr: np.ndarray) -> np.ndarray:
    """The fractional t at which lambda is so much; float64."""
    rising = -self.half_log_snr
    return np.interp(-half_log_snr, rising, np.arange(len(rising)))


def half_log_snr(alpha_bar: np.ndarray) -> np.ndarray:
  """lambda of alpha_bar in (0, 1]; infinite at 1."""
  with np.errstate(divide='ignore'):
    return (np.log(alpha_bar) - np.log1p(-alpha_bar)) / 2


def make(
  kind: str = 'linear',
  num_timesteps: int = 1000,
  start: float = 0.0015,
  end: float = 0.0195,
  cosine_s: float = 8e-3,
  zero_terminal_snr: bool = False,
) -> Schedule:
  """The schedule of that name, as the release names them.

  Args:
    kind: 'linear' (betas whose square roots are evenly spaced), 'cosine',
      'sqrt_linear' (evenly spaced betas), 'sqrt' (their square roots).
    num_timesteps: T.
    start: the first beta; unused by 'cosine'.
    end: the last beta; unused by 'cosine'.
    cosine_s: the cosine schedule's offset (Nichol & Dhariwal 2021).
    zero_terminal_snr: rescaled so that the last timestep is noise alone.

  Raises:
    UserError: an unknown kind, betas outside (0, 1), or zero_terminal_snr of
      a single timestep.
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
  if zero_terminal_snr and num_timesteps < 2:
    raise UserError(
      'schedule.zero_terminal_snr=True needs num_timesteps of 2 or more, and '
      f'not {num_timesteps}.'
    )
  alpha_bar = np.cumprod(1.0 - beta)
  if zero_terminal_snr:
    alpha_bar = rescaled(alpha_bar)
  return Schedule(alpha_bar=alpha_bar)


def rescaled(alpha_bar: np.ndarray) -> np.ndarray:
  """Lin et al. 2024, Alg. 1: the first stays, the last loses its signal.

  It keeps half the signal of the one before it, and 2^-12 at most, since at
  none at all eps would say nothing of z_0: from so little float32 still gets
  z_0 back, to about 1e-3.
  """
  signal = np.sqrt(alpha_bar)
  signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
  signal[-1] = min(signal[-2] / 2, 2.0**-12)
  return signal**2
