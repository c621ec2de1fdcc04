"""Where a program will run."""

import jax

from ldm_jax.nn import target


def test_cpu_is_this_machine_s(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  assert target.is_cpu()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert not target.is_cpu()


def test_exported_programs_are_for_no_machine(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  with target.anywhere():
    assert not target.is_cpu()
  assert target.is_cpu()
