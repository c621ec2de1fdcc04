"""Denoisers whose answers are known."""

import numpy as np


def at(levels, t):
  """levels [T] at t [B] -> [B 1 1 1]."""
  return levels[t][:, None, None, None]


def one_point(schedule, z_0):
  """The perfect denoiser when all data is the single point z_0."""

  def denoise(z, t):
    signal, noise = schedule.at(t)
    return (z - signal * z_0) / noise

  return denoise


def gaussian(schedule, std):
  """The perfect denoiser of data from N(0, std^2 I)."""

  def denoise(z, t):
    signal, noise = schedule.at(t)
    return noise * z / (signal**2 * std**2 + noise**2)

  return denoise


def gaussian_std(alpha_bar, std):
  """Standard deviation of z_t for such data; the flow scales with it."""
  return np.sqrt(alpha_bar * std**2 + 1 - alpha_bar)
