"""Files that are whole or not there, whenever a program is killed."""

import contextlib
from collections.abc import Iterator

from etils import epath


@contextlib.contextmanager
def written(path: epath.PathLike) -> Iterator[epath.Path]:
  """A place beside `path` to write to, which is then renamed to it.

  What was there stays until then, and for good where writing fails.
  """
  path = epath.Path(path)
  partial = path.with_name(f'{path.name}.partial')
  try:
    yield partial
    partial.replace(path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise
