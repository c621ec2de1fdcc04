"""Files of tensors, whoever wrote them: .ckpt, .pt, .pth and .safetensors."""

import os
from collections.abc import Mapping

import numpy as np

from ldm_jax import whole
from ldm_jax.interop import safetensors_file, torch_file, torch_writer
from ldm_jax.interop.mapped import Damaged, map_file
from ldm_jax.types import UserError

CHECKPOINTS = ('.safetensors', '.ckpt', '.pt', '.pth', '.bin')


def read_tensors(path: str, legacy: bool = False) -> dict[str, np.ndarray]:
  """The tensors of a file by name: read-only views of the mapped file.

  What a file is, is read off its first bytes. Half precision and integers
  come as they are; bfloat16 is that of ml_dtypes.

  Args:
    path: the file.
    legacy: whether the format of PyTorch before 1.6 is read too.

  Raises:
    UserError: naming the path and what is wrong with it. A pickle that asks
      for more than tensors is refused, and nothing of it is executed.
  """
  buffer = map_file(path)
  try:
    if safetensors_file.is_safetensors(buffer):
      return safetensors_file.read(buffer)
    return torch_file.read(buffer, legacy)
  except Damaged as error:
    raise UserError(f'{path} cannot be read: {error}.') from error


def read_published(path: str) -> dict[str, np.ndarray]:
  """As `read_tensors`, for VGG-16 and LPIPS: their files are of before 1.6."""
  return read_tensors(path, legacy=True)


def write_tensors(
  path: str, tensors: Mapping[str, np.ndarray], global_step: int = 0
) -> None:
  """Writes a .safetensors or a .ckpt, by the path's ending.

  The file appears under its name when it is whole.
  """
  tensors = {name: np.asarray(x) for name, x in tensors.items()}
  try:
    with whole.written(path) as partial:
      if path.endswith('.safetensors'):
        safetensors_file.write(os.fspath(partial), tensors, {'format': 'pt'})
      else:
        torch_writer.write(os.fspath(partial), tensors, global_step)
  except OSError as error:
    raise UserError(f'{path} cannot be written: {error.strerror}.') from error
