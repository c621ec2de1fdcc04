"""The schedule, as the release keeps it in a checkpoint: twelve buffers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.diffusion import schedule as schedules
from ldm_jax.interop.compvis_config import SCHEDULES
from ldm_jax.types import UserError

NAMES = (
    'betas', 'alphas_cumprod', 'alphas_cumprod_prev', 'sqrt_alphas_cumprod',
    'sqrt_one_minus_alphas_cumprod', 'log_one_minus_alphas_cumprod',
    'sqrt_recip_alphas_cumprod', 'sqrt_recipm1_alphas_cumprod',
    'posterior_variance', 'posterior_log_variance_clipped',
    'posterior_mean_coef1', 'posterior_mean_coef2',
)  # fmt: skip


def buffers(section: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Float32 [T] arrays of a `schedule` section, in float64 until the end."""
  a = schedules.make(**section).alpha_bar
  a_prev = np.append(1.0, a[:-1])
  alpha = a / a_prev
  beta = 1.0 - alpha
  variance = beta * (1.0 - a_prev) / (1.0 - a)  # DDPM, Eq. 7
  values = (
      beta, a, a_prev, np.sqrt(a),
      np.sqrt(1.0 - a), np.log(1.0 - a),
      np.sqrt(1.0 / a), np.sqrt(1.0 / a - 1.0),
      variance, np.log(np.maximum(variance, 1e-20)),
      beta * np.sqrt(a_prev) / (1.0 - a),
      (1.0 - a_prev) * np.sqrt(alpha) / (1.0 - a),
  )  # fmt: skip
  return {k: np.float32(v) for k, v in zip(NAMES, values, strict=True)}


def find_schedule(
  section: Mapping[str, Any],
  tensors: Mapping[str, np.ndarray],
  path: str,
  notes: list[str],
) -> dict[str, Any]:
  """The `schedule` section that the checkpoint's buffers follow.

  The release samples by the buffers, so they win over a config that disagrees,
  with a note. Without buffers it is the config's.

  Raises:
    UserError: the buffers follow no schedule of the release's.
  """
  if 'alphas_cumprod' not in tensors:
    return dict(section)
  given = np.asarray(tensors['alphas_cumprod'], np.float64)
  # Files of float16 or bfloat16 hold their buffers so too.
  half = tensors['alphas_cumprod'].dtype.itemsize == 2
  tolerance = 1e-2 if half else 1e-5
  if _follows(section, given, tolerance):
    return dict(section)
  # Their configs have no key for it, and ours writes none there.
  zero = {**section, 'zero_terminal_snr': True}
  if _follows(zero, given, tolerance):
    notes.append(
      'The schedule in the checkpoint ends without signal '
      '(schedule.zero_terminal_snr), which its config does not say; the '
      "checkpoint's is used, as released."
    )
    return zero
  for guess in _guesses(given):
    if _follows(guess, given, max(tolerance, 1e-4)):
      notes.append(
        f'The schedule in the checkpoint is {_text(guess)}, not the '
        f"config's {_text(section)}; the checkpoint's is used, as released."
      )
      return guess
  raise UserError(
    f'{path}: alphas_cumprod follows neither its config '
    f'({_text(section)}) nor another schedule of the release.'
  )


def _follows(section, given: np.ndarray, tolerance: float) -> bool:
  if given.shape != (section['num_timesteps'],):
    return False
  wanted = schedules.make(**section).alpha_bar
  return np.allclose(given, wanted, rtol=tolerance, atol=1e-7)


def _guesses(a: np.ndarray):
  """Schedules with the first and last beta of alpha_bar [T]."""
  if a.ndim != 1 or a.size < 2 or not np.all((a > 0) & (a < 1)):
    return
  first, last = 1.0 - a[0], 1.0 - a[-1] / a[-2]
  digits = lambda x: float(f'{x:.4g}')
  for kind in SCHEDULES:
    power = 2 if kind == 'sqrt' else 1
    start, end = digits(first**power), digits(last**power)
    if kind == 'cosine':
      start, end = 1e-4, 2e-2  # Unused.
    if 0 < start <= end < 1:
      yield {
        'kind': kind, 'num_timesteps': a.size, 'start': start, 'end': end,
      }  # fmt: skip


def _text(section: Mapping[str, Any]) -> str:
  return '{kind} {start} to {end} over {num_timesteps}'.format(**section)
