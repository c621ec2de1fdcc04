"""Two processes of a run in one: what JAX's coordinator is to both."""

import itertools
import types

import jax

from ldm_jax.training import processes


class Coordinator:
  """A table that all processes share; `late` questions come too early.

  Attributes:
    asked: how often a process waited here.
  """

  def __init__(self, late: int = 0, told: dict | None = None):
    self.asked, self._late, self._told = 0, late, told

  def key_value_set(self, key, value):
    self._told = {**(self._told or {}), key: value}

  def blocking_key_value_get(self, key, milliseconds):
    self.asked += 1
    if self.asked <= self._late:
      raise jax.errors.JaxRuntimeError(f'DEADLINE_EXCEEDED: {key}')
    if self._told is None:
      return 'null'  # Process 0 went well.
    if key not in self._told:
      raise jax.errors.JaxRuntimeError('UNAVAILABLE: the service is gone')
    return self._told[key]


def join(monkeypatch, coordinator: Coordinator, rank: int) -> None:
  """From here on this is process `rank` of two, where one waits for another."""
  seen = types.SimpleNamespace(
    process_count=lambda: 2, process_index=lambda: rank, errors=jax.errors
  )
  state = types.SimpleNamespace(client=coordinator)
  distributed = types.SimpleNamespace(global_state=state)
  monkeypatch.setattr(processes, 'jax', seen)
  monkeypatch.setattr(processes, '_numbers', itertools.count())
  monkeypatch.setattr(processes, 'distributed', distributed)
