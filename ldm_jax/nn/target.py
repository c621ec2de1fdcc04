"""Whether what is being traced is for this machine's CPU alone."""

import contextlib
import contextvars

import jax

_anywhere = contextvars.ContextVar('anywhere', default=False)


def is_cpu() -> bool:
  """Whether a CPU will run it: there, other formulations are the fast ones."""
  return jax.default_backend() == 'cpu' and not _anywhere.get()


@contextlib.contextmanager
def anywhere():
  """Inside, programs are traced to be exported for all platforms."""
  token = _anywhere.set(True)
  try:
    yield
  finally:
    _anywhere.reset(token)
