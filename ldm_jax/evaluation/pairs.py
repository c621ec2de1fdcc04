"""Images against their reconstructions, pair by pair."""

import functools
from collections.abc import Callable, Collection, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.evaluation import reconstruction
from ldm_jax.evaluation.ssim import ssim
from ldm_jax.first_stage import lpips
from ldm_jax.nn import conv
from ldm_jax.types import Params

NAMES = ('psnr', 'ssim', 'ssim_zero', 'lpips')


def compute(
  names: Collection[str],
  batches: Iterable[tuple[np.ndarray, np.ndarray]],
  lpips_params: Params | None = None,
) -> dict[str, float]:
  """Means over all pairs of uint8 batches [B H W 3], and how many there were.

  PSNR is of each image in dB and then averaged; that of an image without any
  error is infinite. LPIPS takes [-1, 1] and needs its parameters.
  """
  functions: dict[str, Callable] = {
    'psnr': lambda x, y: reconstruction.psnr(x, y, 255),
    'ssim': ssim,
    'ssim_zero': functools.partial(ssim, padding='zero'),  # LaMa's
    'lpips': _distance(lpips_params) if lpips_params is not None else None,
  }
  found: dict[str, list] = {name: [] for name in names}
  count = 0
  for x, y in batches:
    count += len(x)
    for name in names:
      found[name].append(functions[name](x, y))
  result = {k: float(np.concatenate(v).mean()) for k, v in found.items()}
  return result | {'pairs': count}


def _distance(params: Params) -> Callable:
  @conv.jit
  def distance(params, x, y):
    with jax.default_matmul_precision('highest'):
      x, y = (i.astype(jnp.float32) / 127.5 - 1 for i in (x, y))
      return lpips.LPIPS().apply({'params': params}, x, y)

  return lambda x, y: np.asarray(distance(params, x, y))
