"""The ADM evaluator's npz: images in arr_0, statistics in mu and sigma."""

import os
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np
from numpy.lib import format as npy

from ldm_jax import whole
from ldm_jax.types import UserError

# (mean, covariance) by our name of the features.
STATISTICS = {'pool': ('mu', 'sigma'), 'spatial': ('mu_s', 'sigma_s')}


def read_images(path: str | os.PathLike) -> np.ndarray:
  """arr_0, uint8 [N H W 3]; mapped, not read, where it is not compressed.

  Raises:
    UserError: no such array, or one that holds no images.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      if 'arr_0.npy' not in archive.namelist():
        raise UserError(f'{path} has no images: no array arr_0 is in it.')
      pixels = _member(path, archive, archive.getinfo('arr_0.npy'))
  except UserError:
    raise
  except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
    raise UserError(f'{path} cannot be read: {error}.') from error
  if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
    raise UserError(
      f'arr_0 of {path} is {pixels.dtype}{list(pixels.shape)}; images are '
      'uint8 [N H W 3].'
    )
  return pixels


def _member(path, archive, info) -> np.ndarray:
  if info.compress_type != zipfile.ZIP_STORED:
    with archive.open(info) as stream:
      return npy.read_array(stream, allow_pickle=False)
  with open(path, 'rb') as file:
    file.seek(info.header_offset + 26)
    name, extra = np.frombuffer(file.read(4), '<u2').tolist()
    file.seek(info.header_offset + 30 + name + extra)
    version = npy.read_magic(file)
    header = {
      (1, 0): npy.read_array_header_1_0,
      (2, 0): npy.read_array_header_2_0,
    }.get(version)
    if header is None:
      raise ValueError(f'arr_0 is in version {version} of the npy format')
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
      raise ValueError('arr_0 holds Python objects')
    order = 'F' if fortran else 'C'
    return np.memmap(file, dtype, 'r', file.tell(), tuple(shape), order)


def read_statistics(
  path: str | os.PathLike,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """{'pool' or 'spatial': (mean, covariance)} of what the file holds.

  Raises:
    UserError: statistics of impossible shapes.
  """
  found = {}
  try:
    with np.load(path, allow_pickle=False) as archive:
      for name, (mean, cov) in STATISTICS.items():
        if mean in archive and cov in archive:
          found[name] = archive[mean], archive[cov]
  except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
    raise UserError(f'{path} cannot be read: {error}.') from error
  for name, (mean, cov) in found.items():
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
      raise UserError(
        f'{path}: {STATISTICS[name]} have shapes {mean.shape}, {cov.shape}.'
      )
  return found


def write(
  path: str | os.PathLike,
  images: np.ndarray | None = None,
  statistics: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> None:
  """Writes what is given; the file appears under its name when it is whole."""
  arrays = {} if images is None else {'arr_0': images}
  for name, pair in (statistics or {}).items():
    if name in STATISTICS:
      arrays |= dict(zip(STATISTICS[name], pair))
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with whole.written(path) as partial, partial.open('wb') as file:
    np.savez(file, **arrays)
