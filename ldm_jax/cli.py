"""What every script does around its work: flags, memory, caches."""

import ctypes
import functools
import importlib.metadata
import importlib.util
import logging
import os
import sys
from collections.abc import Callable

import jax
from absl import flags
from absl import logging as absl_logging

from ldm_jax import command
from ldm_jax.types import UserError

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
  """As command.run, of a program that computes.

  Compiled programs are cached between runs, in $JAX_COMPILATION_CACHE_DIR or
  ~/.cache/ldm_jax/programs.
  """

  def computing():
    if not flags.FLAGS['verbosity'].present:
      # Orbax tells each save in twenty lines; what this package says is for
      # whoever started it.
      absl_logging.set_verbosity(absl_logging.WARNING)
      logging.getLogger('ldm_jax').setLevel(logging.INFO)
    _keep_memory()
    _cache_programs()
    return main()

  command.run(computing)


def size(text: str | None) -> tuple[int, int] | None:
  """(height, width) of a flag like 256x512; None where it is not set."""
  if text is None:
    return None
  sides = text.lower().split('x')
  if len(sides) != 2 or not all(s.isdigit() and int(s) > 0 for s in sides):
    raise UserError(f'--size={text} must be HEIGHTxWIDTH, such as 256x512.')
  return int(sides[0]), int(sides[1])


def _cache_programs():
  if jax.config.jax_compilation_cache_dir is None:
    cache = os.path.expanduser('~/.cache/ldm_jax/programs')
    jax.config.update('jax_compilation_cache_dir', cache)


def _keep_memory():
  """Makes glibc keep what XLA's CPU client frees, for its next buffer.

  By default every large buffer is mapped and unmapped anew, and a training
  step spends its time in page faults. Only the main arena keeps large ones,
  and only the main thread is sure to use it, so programs run on the thread that
  calls them. The number of arenas is left alone: with one for all, steps after
  a program was compiled, and not read from the cache, took 1.4 to 1.7 times as
  long. The platform is guessed from what is installed, and not asked of JAX,
  which would start XLA.
  """
  if sys.platform != 'linux' or not _cpu_alone():
    return
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:  # Not glibc.
    return
  mmap_max, trim_threshold, top_pad = -4, -1, -2
  mallopt(mmap_max, 0)
  mallopt(trim_threshold, -1)  # Never.
  mallopt(top_pad, 2**28)
  if 'JAX_CPU_ENABLE_ASYNC_DISPATCH' not in os.environ:
    jax.config.update('jax_cpu_enable_async_dispatch', False)


def _cpu_alone() -> bool:
  """Whether JAX will find nothing but the CPU."""
  if jax.config.jax_platforms:
    return jax.config.jax_platforms == 'cpu'
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  return not plugins and importlib.util.find_spec('libtpu') is None
