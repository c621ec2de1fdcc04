"""A program on the command line: a mistake is one line and exit code 2."""

import sys
from collections.abc import Callable

from absl import app, flags

from ldm_jax.types import UserError

# The exit code of a mistake of the user's, as for unusable arguments.
USER_ERROR = 2


def run(main: Callable[[], int | None]):
  """Parses flags, runs main() and exits with what it returns.

  A UserError, and any flag that cannot be read, becomes one line on stderr and
  exit code 2.
  """

  def guarded(argv):
    if len(argv) > 1:
      _fail(f'unexpected arguments: {" ".join(argv[1:])}')
    try:
      sys.exit(main())
    except UserError as error:
      _fail(error)

  app.run(guarded, flags_parser=_parse)


def _parse(argv):
  try:
    rest = flags.FLAGS(argv, known_only=False)
    # That a config file is not there is told when it is first used.
    getattr(getattr(flags.FLAGS, 'config', None), 'lock', None)
    return rest
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError,
          OSError, ImportError, SyntaxError) as error:  # fmt: skip
    _fail(in_one_line(error))


def in_one_line(error: Exception) -> str:
  """What is wrong, without what ml_collections puts around it.

  It reports an unknown key or a value of the wrong type with whatever exception
  came up, and a config file may raise anything: then the message holds a
  traceback, whose last line matters.
  """
  # str() of a KeyError, or of an AttributeError around one, is a repr.
  while error.args and isinstance(error.args[0], KeyError):
    error = error.args[0]
  message = str(error.args[0] if isinstance(error, KeyError) else error)
  last = message.strip().splitlines()[-1]
  if 'Traceback (most recent call last)' in message:
    message = last.partition('Error: ')[2] or last
  elif 'Failed loading config file' in message:
    message = f'--config: {last}'
  return ' '.join(message.split())


def _fail(error) -> None:
  print(f'Error: {error}', file=sys.stderr)
  sys.exit(USER_ERROR)
