"""A few steps under JAX's profiler, for TensorBoard or Perfetto."""

import dataclasses
import pathlib

import jax

from ldm_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class ProfileSpec:
  """Which steps to profile; the config's `profile` section.

  Attributes:
    start: steps of this process before the first profiled one; the first few
      compile and fill caches.
    steps: how many; 0: none.
  """

  start: int = 10
  steps: int = 0

  def __post_init__(self):
    for name, least in (('start', 1), ('steps', 0)):
      if getattr(self, name) < least:
        raise UserError(
          f'profile.{name}={getattr(self, name)} must be {least} or more.'
        )


class Profiler:
  """Writes `workdir/profile` while the chosen steps run."""

  def __init__(self, workdir, spec: ProfileSpec):
    self._folder = pathlib.Path(workdir) / 'profile'
    self._first = spec.start
    self._last = spec.start + spec.steps
    self._active = False
    self._done = 0

  def after_step(self, scalars) -> None:
    """Call once after each step, with something that it computes."""
    self._done += 1
    if self._first < self._last and self._done == self._first:
      jax.block_until_ready(scalars)
      jax.profiler.start_trace(str(self._folder))
      self._active = True
    elif self._active and self._done == self._last:
      jax.block_until_ready(scalars)
      self.close()

  def close(self) -> None:
    """Ends a profile that is still being taken."""
    if self._active:
      self._active = False
      jax.profiler.stop_trace()
      print(f'Profiled steps: {self._folder}')
