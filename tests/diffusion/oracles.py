"""Denoisers whose answers are known, and where they lead exactly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from ldm_jax.diffusion import sampling


def at(levels, t):
  """levels [T] at t [B] -> [B 1 1 1]."""
  return levels[t][:, None, None, None]


def one_point(schedule, z_0):
  """The perfect denoiser when all data is the single point z_0."""

  def denoise(z, t):
    signal, noise = schedule.at(t)
    return (z - signal * z_0) / noise

  return denoise


def gaussian_std(alpha_bar, std):
  """Standard deviation of z_t for data from N(0, std^2 I)."""
  return np.sqrt(alpha_bar * std**2 + 1 - alpha_bar)


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Data from a mixture of isotropic Gaussians in the last axis."""

  weights: np.ndarray  # [K]
  means: np.ndarray  # [K c]
  stds: np.ndarray  # [K]

  def eps(self, z, signal, noise):
    """The perfect answer to z [... c] at levels [... 1]; numpy or jax."""
    xp = jnp if isinstance(z, jax.Array) else np
    apart = z[..., None, :] - xp.asarray(signal)[..., None] * self.means
    var = signal**2 * self.stds**2 + noise**2  # [K]
    log_p = np.log(self.weights) - xp.log(var) * self.means.shape[1] / 2
    log_p = log_p - (apart**2).sum(-1) / (2 * var)
    p = xp.exp(log_p - log_p.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    return noise * ((p / var)[..., None] * apart).sum(-2)

  def denoiser(self, schedule):
    """As a Denoiser of latents [B h w c]; every pixel is a sample."""
    return lambda z, t: self.eps(z, *schedule.at(t))

  def flow(self, z, begin, end):
    """Where the probability flow takes z from alpha_bar `begin` to `end`."""
    ratio = lambda alpha_bar: np.sqrt((1 - alpha_bar) / alpha_bar)

    def slope(sigma, y):
      signal = 1 / np.sqrt(1 + sigma**2)
      z_t = y.reshape(z.shape) * signal
      return self.eps(z_t, signal, sigma * signal).ravel()

    solution = solve_ivp(
      slope,
      (ratio(begin), ratio(end)),
      (z / np.sqrt(begin)).ravel(),
      method='DOP853',
      rtol=1e-11,
      atol=1e-12,
    )
    return solution.y[:, -1].reshape(z.shape) * np.sqrt(end)


MIXTURE = Mixture(
  weights=np.array([0.5, 0.3, 0.2]),
  means=np.array([[-1.2, 0.3, 0.1], [0.9, 0.8, -0.7], [0.4, -1.3, 0.5]]),
  stds=np.array([0.5, 0.75, 0.4]),
)


def follow(steps, z, eps_at):
  """The recurrence of `sampling.sample` in float64, without its noise."""
  state = np.zeros((steps.mix.shape[1], *z.shape))
  state[0] = z
  for t, mix in zip(steps.t, steps.mix):
    terms = np.concatenate([state, eps_at(state[0], t)[None]])
    state = np.tensordot(mix, terms, axes=1)
  return state[0]


def between(alpha_bar):
  """Levels from alpha_bar[-1] down to alpha_bar[0], t counting from 0."""
  return sampling.Levels(
    t=np.arange(1, len(alpha_bar)),
    alpha_bar=alpha_bar[1:],
    alpha_bar_next=alpha_bar[:-1],
  )


def orders(solver, counts=(16, 32, 64, 128)):
  """log2 of how the error shrinks as the number of steps doubles.

  From lambda = -2.5 to 2.5 in even steps, on MIXTURE, against its exact flow.
  """
  z = np.random.default_rng(0).normal(size=(32, 3))
  errors = []
  for count in counts:
    alpha_bar = 1 / (1 + np.exp(-2 * np.linspace(2.5, -2.5, count + 1)))
    eps_at = lambda z, t, a=alpha_bar: MIXTURE.eps(
      z, np.sqrt(a[int(t)]), np.sqrt(1 - a[int(t)])
    )
    result = follow(solver(between(alpha_bar)), z, eps_at)
    exact = MIXTURE.flow(z, alpha_bar[-1], alpha_bar[0])
    errors.append(np.sqrt(np.mean((result - exact) ** 2)))
  return np.log2(np.array(errors[:-1]) / errors[1:])


def std_errors(solver, std, counts, ends=(2.5, -2.5)):
  """Relative error of the standard deviation that Gaussian data ends with.

  Noise included: the covariance of a solver's state obeys a recurrence too.
  """
  errors = []
  for count in counts:
    alpha_bar = 1 / (1 + np.exp(-2 * np.linspace(*ends, count + 1)))
    steps = solver(between(alpha_bar))
    covariance = np.zeros((steps.mix.shape[1],) * 2)
    covariance[0, 0] = gaussian_std(alpha_bar[-1], std) ** 2
    for t, mix, noise in zip(steps.t, steps.mix, steps.noise):
      a = alpha_bar[int(t)]
      mix = mix.copy()
      mix[:, 0] += mix[:, -1] * np.sqrt(1 - a) / gaussian_std(a, std) ** 2
      covariance = mix[:, :-1] @ covariance @ mix[:, :-1].T
      covariance[0, 0] += noise**2
    errors.append(covariance[0, 0] ** 0.5 / gaussian_std(alpha_bar[0], std) - 1)
  return np.array(errors)
