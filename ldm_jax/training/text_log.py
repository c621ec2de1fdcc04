"""What a run says, kept in its folder too: log.txt, which never grows large."""

import logging
import logging.handlers
import pathlib

import jax
from absl import logging as absl_logging

from ldm_jax.types import UserError

NAME = 'log.txt'
# log.txt, and log.txt.1 to log.txt.3, older and older: at most 16 MiB in all.
_BYTES, _OLDER = 4 * 2**20, 3

# Lines that are printed as well, and so must not reach other handlers.
_lines = logging.getLogger('ldm_jax.lines')
_lines.setLevel(logging.INFO)
_lines.propagate = False
_lines.addHandler(logging.NullHandler())


class TextLog:
  """While entered, process 0 writes what is noted or warned of to log.txt.

  So is the traceback of what ends the run, unless it is a user's mistake. The
  file is made with its first line.
  """

  def __init__(self, workdir, size: int = _BYTES):
    self._handler = _Handler(
      pathlib.Path(workdir) / NAME,
      maxBytes=size,
      backupCount=_OLDER,
      encoding='utf-8',
      delay=True,
    )
    self._handler.setFormatter(
      logging.Formatter('%(asctime)s %(levelname)s %(message)s')
    )

  def __enter__(self):
    if jax.process_index() == 0:
      for logger in (_lines, logging.getLogger()):
        logger.addHandler(self._handler)
    return self

  def __exit__(self, kind, error, traceback):
    if kind is not None and not issubclass(kind, UserError):
      _lines.error('The run ends.', exc_info=(kind, error, traceback))
    for logger in (_lines, logging.getLogger()):
      logger.removeHandler(self._handler)
    self._handler.close()


def note(line: str) -> None:
  """Adds a line to the log of the run under way, if there is one."""
  _lines.info('%s', line)


def say(line: str) -> None:
  """Prints a line and notes it."""
  print(line)
  note(line)


def quiet_orbax() -> None:
  """Keeps orbax's thirty INFO lines per save out of a run's log."""
  handler = absl_logging.get_absl_handler()
  if _not_orbax_info not in handler.filters:
    handler.addFilter(_not_orbax_info)


def _not_orbax_info(record) -> bool:
  chatter = record.levelno <= logging.INFO and 'orbax' in record.pathname
  return not chatter


class _Handler(logging.handlers.RotatingFileHandler):
  def _open(self):
    pathlib.Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
    return super()._open()
