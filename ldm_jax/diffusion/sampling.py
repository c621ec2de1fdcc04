"""Reverse process: from noise to a latent, under one scan."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.schedule import Schedule, half_log_snr
from ldm_jax.types import Array, Denoiser, UserError

SPACINGS = ('leading', 'trailing', 'compvis', 'offset', 'karras', 'log_snr')

# Where spacings of the noise level begin at the latest: the signal is 0.6% of
# z_t there. Schedules that end on almost none (cosine) would otherwise spend
# many of their steps where nothing is decided.
LEAST_HALF_LOG_SNR = -5.1


@flax.struct.dataclass
class Steps:
  """A solver, tabulated: every one of them is a linear recurrence.

  The state is a stack of M arrays like z_t; the first is z_t itself, the
  others are what a multistep solver remembers. Row i asks the denoiser for
  eps_hat at t[i] and takes

    state' = mix[i] @ [state, eps_hat],  state'[0] += noise[i] n,  n ~ N(0, I)

  A first-order solver remembers nothing: M = 1 and mix[i] = [[c_z, c_eps]].
  One that asks twice per step, or once more, has rows of its own for that.

  Host arrays in float64; what enters a compiled function is cast once.
  """

  t: np.ndarray  # [rows], whole or fractional
  mix: np.ndarray  # [rows M M+1]
  noise: np.ndarray  # [rows]


@flax.struct.dataclass
class Levels:
  """The timesteps visited, ascending, and alpha_bar where each step goes."""

  t: np.ndarray  # [S]
  alpha_bar: np.ndarray  # [S] at t
  alpha_bar_next: np.ndarray  # [S] one step closer to the data

  def walk(self):
    """(t, from, to), in the order of sampling: where, and levels there."""
    ends = (Level(self.alpha_bar[::-1]), Level(self.alpha_bar_next[::-1]))
    return self.t[::-1], *ends


@flax.struct.dataclass
class Level:
  """How noisy z is, in the words of the papers; float64."""

  alpha_bar: np.ndarray

  @property
  def signal(self) -> np.ndarray:
    """alpha of z = alpha z_0 + sigma eps."""
    return np.sqrt(self.alpha_bar)

  @property
  def noise(self) -> np.ndarray:
    """sigma of z = alpha z_0 + sigma eps."""
    return np.sqrt(1 - self.alpha_bar)

  @property
  def ratio(self) -> np.ndarray:
    """sigma / alpha, which Karras et al. 2022 call sigma."""
    return self.noise / self.signal

  @property
  def half_log_snr(self) -> np.ndarray:
    """lambda = log(alpha / sigma); infinite at the data."""
    return half_log_snr(self.alpha_bar)


def levels(
  schedule: Schedule, num_steps: int, spacing: str = 'leading'
) -> Levels:
  """Selects timesteps: exactly `num_steps` of them, but for 'compvis'.

  Args:
    schedule: the noise schedule the model was trained with.
    num_steps: S, from 1 to T.
    spacing: 'leading' (multiples of T // S, ending on the data itself),
      'trailing' (from T - 1 down in steps of T / S), 'compvis', the
      release's: range(0, T, T // S) + 1, ending on alpha_bar[0]. Where S does
      not divide T the release runs another number of steps, and so do we.
      'offset' (multiples of T // S, plus 1, ending on alpha_bar[0]) is
      diffusers' form of it: the same where S divides T, else S steps.
      'karras' (even in (sigma / alpha)^(1/7); Karras et al. 2022, Eq. 5) and
      'log_snr' (even in its logarithm; Lu et al. 2022) visit fractional
      timesteps between the schedule's ends.

  Raises:
    UserError: a spacing or a number of steps that does not exist.
  """
  total = schedule.num_timesteps
  if not 0 < num_steps <= total:
    # Checked here because a jnp gather clamps instead of failing.
    raise UserError(f'steps={num_steps} is outside 1 to {total}.')
  final = 1.0
  if spacing == 'leading':
    t = np.arange(num_steps) * (total // num_steps)
  elif spacing == 'trailing':
    down = total - np.arange(num_steps) * total / num_steps
    t = np.round(down).astype(int)[::-1] - 1
  elif spacing in ('compvis', 'offset'):
    t = np.arange(0, total, total // num_steps) + 1
    if spacing == 'offset':
      t = t[:num_steps]
    final = schedule.alpha_bar[0]
    if t[-1] >= total:
      raise UserError(
        f'steps={num_steps} with spacing={spacing!r} asks for timestep '
        f'{t[-1]} of {total}, as it does where it comes from, which crashes; '
        "take fewer steps or spacing='leading'."
      )
  elif spacing in ('karras', 'log_snr'):
    return _noise_levels(schedule, num_steps, spacing)
  else:
    raise UserError(
      f'spacing={spacing!r} is unknown; allowed: {", ".join(SPACINGS)}.'
    )
  a = schedule.alpha_bar[t]
  return Levels(t=t, alpha_bar=a, alpha_bar_next=np.append(final, a[:-1]))


def _noise_levels(schedule: Schedule, num_steps: int, spacing: str) -> Levels:
  """Levels that are even in a power, or the logarithm, of sigma / alpha."""
  least, most = schedule.half_log_snr[[-1, 0]]
  least = min(max(least, LEAST_HALF_LOG_SNR), most)
  if spacing == 'karras':
    root = np.linspace(np.exp(-least / 7), np.exp(-most / 7), num_steps)
    visited = -7 * np.log(root[::-1])
  else:
    visited = np.linspace(least, most, num_steps)[::-1]
  a = 1 / (1 + np.exp(-2 * visited))
  return Levels(
    t=schedule.timestep(visited),
    alpha_bar=a,
    alpha_bar_next=np.append(1.0, a[:-1]),
  )


def tabulate(t: np.ndarray, mix: np.ndarray, noise: np.ndarray) -> Steps:
  """Rows in the order of sampling, as given -> Steps."""
  return Steps(*(np.asarray(x, np.float64) for x in (t, mix, noise)))


def deterministic(sampler: str, eta: float):
  """Raises UserError where a solver without an eta is given one."""
  if eta:
    raise UserError(
      f"eta={eta}: sampler={sampler!r} has none, only 'ddim' has; set eta=0."
    )


def image_keys(seed: Array | int, first: int, num: int) -> Array:
  """One key per image, by its number: whatever the batch, the same image."""
  return numbered_keys(seed, jnp.arange(first, first + num))


def numbered_keys(seed: Array | int, numbers: Array) -> Array:
  """The keys [B] of the images of these numbers [B]."""
  key = jax.random.key(seed)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers)


def initial_noise(keys: Array, shape: tuple[int, ...]) -> Array:
  """keys [B] -> z_T [B *shape], each image's from its own key."""
  # Step numbers are folded into the same keys; -1 (as uint32) is none of them.
  draw = lambda key: jax.random.normal(
    jax.random.fold_in(key, 0xFFFFFFFF), shape
  )
  return jax.vmap(draw)(keys)


def sample(denoise: Denoiser, steps: Steps, z: Array, keys: Array) -> Array:
  """Walks the table from pure noise z [B h w c] to a latent [B h w c].

  `keys` [B] drive the noise that stochastic solvers add, image by image.
  """

  def noise_at(i):
    draw = lambda key: jax.random.normal(
      jax.random.fold_in(key, i), z.shape[1:]
    )
    return jax.vmap(draw)(keys)

  def body(state, row):
    i, step = row
    eps_hat = denoise(state[0], jnp.full(z.shape[:1], step.t))
    terms = jnp.concatenate([state, eps_hat[None]])
    # Written as sums and not as a matrix product: on an accelerator that
    # would run in reduced precision.
    state = jnp.sum(step.mix[:, :, None, None, None, None] * terms[None], 1)
    added = jax.lax.cond(
      step.noise > 0,
      lambda: step.noise * noise_at(i),
      lambda: jnp.zeros_like(z),
    )
    return state.at[0].add(added), None

  memory = steps.mix.shape[1] - 1
  state = jnp.concatenate([z[None], jnp.zeros((memory, *z.shape), z.dtype)])
  rows = jax.tree.map(lambda x: jnp.asarray(x, z.dtype), steps)
  rows = (jnp.arange(steps.t.shape[0]), rows)
  state, _ = jax.lax.scan(body, state, rows)
  return state[0]
