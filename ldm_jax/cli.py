"""What every script does around its work: flags, errors, caches."""

import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable

import jax
from absl import app, flags, logging

from ldm_jax.types import UserError

# The exit code of a mistake of the user's, as for unusable arguments.
USER_ERROR = 2

# Flags. Several scripts have some of the same names, and one process (of tests)
# may import them all.
string, integer, number, boolean, strings = (
  functools.partial(define, allow_override=True)
  for define in (
    flags.DEFINE_string,
    flags.DEFINE_integer,
    flags.DEFINE_float,
    flags.DEFINE_bool,
    flags.DEFINE_list,
  )
)


def run(main: Callable[[], int | None]):
  """Parses flags, runs main() and exits with what it returns.

  A UserError, and any flag that cannot be read, becomes one line on stderr and
  exit code 2. Compiled programs are cached between runs, in
  $JAX_COMPILATION_CACHE_DIR or ~/.cache/ldm_jax.
  """

  def guarded(argv):
    if len(argv) > 1:
      _fail(f'unexpected arguments: {" ".join(argv[1:])}')
    if not flags.FLAGS['verbosity'].present:
      # Orbax tells each save in twenty lines.
      logging.set_verbosity(logging.WARNING)
    _keep_memory()
    _cache_programs()
    try:
      sys.exit(main())
    except UserError as error:
      _fail(error)

  app.run(guarded, flags_parser=_parse)


def size(text: str | None) -> tuple[int, int] | None:
  """(height, width) of a flag like 256x512; None where it is not set."""
  if text is None:
    return None
  sides = text.lower().split('x')
  if len(sides) != 2 or not all(s.isdigit() and int(s) > 0 for s in sides):
    raise UserError(f'--size={text} must be HEIGHTxWIDTH, such as 256x512.')
  return int(sides[0]), int(sides[1])


def _parse(argv):
  try:
    rest = flags.FLAGS(argv, known_only=False)
    # That a config file is not there is told when it is first used.
    getattr(getattr(flags.FLAGS, 'config', None), 'lock', None)
    return rest
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError,
          OSError, ImportError, SyntaxError) as error:  # fmt: skip
    _fail(_in_one_line(error))


def _in_one_line(error: Exception) -> str:
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


def _cache_programs():
  if jax.config.jax_compilation_cache_dir is None:
    cache = os.path.expanduser('~/.cache/ldm_jax/programs')
    jax.config.update('jax_compilation_cache_dir', cache)


def _keep_memory():
  """Makes glibc keep what XLA's CPU client frees, for its next buffer.

  By default every large buffer is mapped and unmapped anew, and a training
  step spends a third of its time in page faults. This must come before XLA
  starts its threads, which would otherwise allocate from arenas of their own;
  so the platform is guessed from what is installed, and not asked of JAX.
  """
  if sys.platform != 'linux' or not _cpu_alone():
    return
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:  # Not glibc.
    return
  arena_max, mmap_max, trim_threshold, top_pad = -8, -4, -1, -2
  mallopt(arena_max, 1)
  mallopt(mmap_max, 0)
  mallopt(trim_threshold, 2**31 - 1)
  mallopt(top_pad, 2**28)


def _cpu_alone() -> bool:
  """Whether JAX will find nothing but the CPU."""
  if jax.config.jax_platforms:
    return jax.config.jax_platforms == 'cpu'
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  return not plugins and importlib.util.find_spec('libtpu') is None
