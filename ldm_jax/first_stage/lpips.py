"""LPIPS, the perceptual distance of the first stages (Zhang et al. 2018).

VGG-16 features and linear heads come from files that the user holds:
torchvision's vgg16-397923af.pth and version 0.1 of LPIPS's vgg.pth, or the
`loss.*` entries of a first-stage checkpoint, which contain both.
"""

import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldm_jax.nn.layers import Conv
from ldm_jax.types import Array, Params, UserError

# (torchvision's index in `features`, width), a row for each slice; the
# distance is read after the last ReLU of each: relu1_2 to relu5_3.
SLICES = (
  ((0, 64), (2, 64)),
  ((5, 128), (7, 128)),
  ((10, 256), (12, 256), (14, 256)),
  ((17, 512), (19, 512), (21, 512)),
  ((24, 512), (26, 512), (28, 512)),
)

# Files of version 0.0 have the same names, shapes and size, and are faulty.
_HEADS_BYTES = 7289
_HEADS_MD5 = 'd507d7349b931f0638a25a48a722f98a'

_NEEDED = (
  'vgg16-397923af.pth (torchvision) and vgg.pth (LPIPS linear heads, '
  'version 0.1), as .safetensors, .npz or .pth'
)


class LPIPS(nn.Module):
  """d(x, y): images [B H W 3] in [-1, 1] -> [B], 0 for equal ones."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, y: Array) -> Array:
    shift = jnp.array([-0.030, -0.088, -0.188])
    scale = jnp.array([0.458, 0.448, 0.450])
    # Walked side by side and not as one batch: in training only y has a
    # gradient, and x then costs no backward pass.
    pair = [(image - shift) / scale for image in (x, y)]
    total = 0.0
    for i, convs in enumerate(SLICES):
      if i:
        pair = [nn.max_pool(h, (2, 2), (2, 2)) for h in pair]
      for index, width in convs:
        conv = Conv(width, dtype=self.dtype, name=f'features_{index}')
        pair = [nn.relu(conv(h)) for h in pair]
      a, b = (_unit(h.astype(jnp.float32)) for h in pair)
      head = Conv(1, 1, use_bias=False, name=f'lin_{i}')
      total += jnp.mean(head(jnp.square(a - b)), axis=(1, 2, 3))
    return total


def _unit(h: Array) -> Array:
  """Channels over their norm, which 1e-10 joins after the square root."""
  squared = jnp.sum(jnp.square(h), -1, keepdims=True)
  # ReLUs can all be off, and the root's derivative at 0 is infinite.
  off = squared == 0
  norm = jnp.where(off, 0.0, jnp.sqrt(jnp.where(off, 1.0, squared)))
  return h / (norm + 1e-10)


def load(
  path: str | None,
  read_torch: Callable[[str], Mapping[str, np.ndarray]] | None = None,
  option: str = 'loss.lpips_path',
) -> Params:
  """LPIPS parameters from a file, or a folder with the files.

  Args:
    path: a .safetensors, .npz or .pth, or a folder with such files: together
      they hold the VGG-16 features and the linear heads.
    read_torch: reads a .pth into arrays by name, without running its pickle.
    option: what the user called the path.

  Raises:
    UserError: no path, missing names, other shapes, or version 0.0 heads.
  """
  if not path:
    raise UserError(
      'loss.perceptual_weight is above 0 and loss.lpips_path is not set: '
      f'LPIPS needs {_NEEDED}; put both into one folder and set '
      'loss.lpips_path to it, or set loss.perceptual_weight=0.'
    )
  root = pathlib.Path(path)
  suffixes = ('.safetensors', '.npz', '.pth', '.ckpt')
  files = sorted(root.iterdir()) if root.is_dir() else [root]
  files = [file for file in files if file.suffix in suffixes]
  if not root.exists() or not files:
    raise UserError(f'{option}={path!r} holds none of {_NEEDED}.')
  arrays: dict[str, np.ndarray] = {}
  for file in files:
    arrays.update(_read(file, read_torch))
  return params_from_arrays(arrays, source=str(path))


def params_from_arrays(
  arrays: Mapping[str, np.ndarray], source: str = 'the given arrays'
) -> Params:
  """LPIPS parameters from torch names and layouts, others being ignored.

  Takes torchvision's `features.N.*` with `lin{k}.model.1.weight`, and the
  names inside first-stage checkpoints, `loss.perceptual_loss.*`.
  """
  names: dict[str, np.ndarray] = {}
  for name, value in arrays.items():
    name = name.removeprefix('loss.').removeprefix('perceptual_loss.')
    parts = name.split('.')
    if parts[0] == 'net' and len(parts) == 4:  # net.slice1.0.weight
      name = f'features.{parts[2]}.{parts[3]}'
    names[name] = value

  params: dict[str, dict[str, np.ndarray]] = {}
  wrong = []

  def take(name, shape):
    value = names.get(name)
    if value is None:
      wrong.append(f'{name} is missing')
    elif tuple(value.shape) != shape:
      wrong.append(f'{name} is {tuple(value.shape)} and not {shape}')
    elif not np.all(np.isfinite(value)):
      wrong.append(f'{name} is not finite')
    else:
      return np.asarray(value, np.float32)
    return np.zeros(shape, np.float32)

  before = 3
  for k, convs in enumerate(SLICES):
    for index, width in convs:
      kernel = take(f'features.{index}.weight', (width, before, 3, 3))
      bias = take(f'features.{index}.bias', (width,))
      # OIHW -> HWIO.
      params[f'features_{index}'] = {
        'kernel': kernel.transpose(2, 3, 1, 0),
        'bias': bias,
      }
      before = width
    head = take(f'lin{k}.model.1.weight', (1, before, 1, 1))
    params[f'lin_{k}'] = {'kernel': head.transpose(2, 3, 1, 0)}
  if wrong:
    raise UserError(
      f'{source} does not hold LPIPS: {"; ".join(wrong)}. It needs {_NEEDED}.'
    )
  return params


def _read(file: pathlib.Path, read_torch) -> Mapping[str, np.ndarray]:
  data = file.read_bytes() if file.stat().st_size == _HEADS_BYTES else None
  if data and hashlib.md5(data, usedforsecurity=False).hexdigest() != (
    _HEADS_MD5
  ):
    raise UserError(
      f'{file} has the size of the LPIPS linear heads and not the digest '
      f'of their version 0.1 (md5 {_HEADS_MD5}): version 0.0 is faulty; '
      'use vgg.pth of version 0.1.'
    )
  try:
    if file.suffix == '.npz':
      with np.load(file, allow_pickle=False) as archive:
        return dict(archive)
    if file.suffix == '.safetensors':
      from safetensors.numpy import load_file

      return load_file(file)
  except Exception as error:
    raise UserError(f'{file} cannot be read: {error}') from error
  if read_torch is None:
    raise UserError(
      f'{file} is a torch file; convert it to .safetensors or .npz.'
    )
  return read_torch(str(file))
