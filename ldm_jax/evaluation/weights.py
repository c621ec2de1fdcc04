"""Weights of feature networks from files that the user holds."""

import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from ldm_jax.types import Params, UserError

Shapes = Mapping[str, Any]


def read_checked(
  path: str | None,
  read: Callable[[str], Mapping[str, np.ndarray]],
  option: str,
  needed: str,
) -> tuple[Mapping[str, np.ndarray], str]:
  """(arrays by name, sha256) of a file; .npz is read here, others by `read`.

  Raises:
    UserError: no path or no file: the message names the option and what it
      takes.
  """
  if not path:
    raise UserError(f'{option} is missing: it takes {needed}.')
  file = pathlib.Path(path)
  if not file.is_file():
    raise UserError(f'{option}={path} is no file; it takes {needed}.')
  with file.open('rb') as stream:
    digest = hashlib.file_digest(stream, 'sha256').hexdigest()
  if file.suffix != '.npz':
    return read(str(file)), digest
  try:
    with np.load(file, allow_pickle=False) as archive:
      return dict(archive), digest
  except Exception as error:
    raise UserError(f'{path} cannot be read: {error}') from error


def checked(
  arrays: Mapping[str, np.ndarray],
  shapes: Shapes,
  name_of: Callable[[tuple[str, ...]], tuple[str, tuple[int, ...] | None]],
  fault: str,
  needed: str,
) -> Params:
  """Float32 parameters in the shapes that a network has.

  Args:
    arrays: the file's, by its own names.
    shapes: nested dict of the network's shapes.
    name_of: path of a parameter -> (the file's name, order of its axes or
      None where it is the same).
    fault, needed: begin and end of the error's message.

  Raises:
    UserError: naming what is missing, misshapen or not finite.
  """
  params, wrong = {}, []
  for path, shape in flax.traverse_util.flatten_dict(shapes).items():
    name, order = name_of(path)
    value = arrays.get(name)
    if value is None:
      wrong.append(f'{name} is missing')
      continue
    found = np.asarray(value, np.float32)
    if order is not None and found.ndim == len(order):
      found = found.transpose(order)
    if found.shape != tuple(shape):
      wrong.append(f'{name} is {np.shape(value)}')
    elif not np.all(np.isfinite(found)):
      wrong.append(f'{name} is not finite')
    params[path] = found
  if wrong:
    more = f' and {len(wrong) - 4} more' if len(wrong) > 4 else ''
    raise UserError(
      f'{fault} the network: {"; ".join(wrong[:4])}{more}. It needs {needed}.'
    )
  return flax.traverse_util.unflatten_dict(params)
