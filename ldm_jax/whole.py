"""Files that are whole or not there, and places that can be written to."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from etils import epath

from ldm_jax.types import UserError


@contextlib.contextmanager
def written(path: epath.PathLike, writer: str = '') -> Iterator[epath.Path]:
  """A place beside `path` to write to, which is then renamed to it.

  Several that may write the same path at once need a `writer` each.

  What was there stays until then, and for good where writing fails or the
  program is killed.
  """
  path = epath.Path(path)
  ending = f'{writer}.partial' if writer else 'partial'
  partial = path.with_name(f'{path.name}.{ending}')
  try:
    yield partial
    partial.replace(path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise


def check_folder(option: str, folder: str | os.PathLike) -> None:
  """Raises UserError where a local folder can be neither made nor written to.

  Nothing is made: this is for before the work whose result goes there.
  """
  there = pathlib.Path(folder)
  while not there.exists() and there != there.parent:
    there = there.parent
  if not there.is_dir():
    raise UserError(f'{option}={folder}: {there} is a file, not a folder.')
  if not os.access(there, os.W_OK | os.X_OK):
    raise UserError(f'{option}={folder}: {there} cannot be written to.')
