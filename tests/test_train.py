"""How a run ends before its time, and goes on."""

import numpy as np
import pytest

import train
from ldm_jax.training import checkpoint
from tests import tiny


def test_ten_bad_steps_end_the_run(tmp_path):
  config = tiny.first_stage(optim={'learning_rate': 1e30}, mesh={'data': 1})
  with pytest.raises(train.guard.TooManyBadSteps, match='10 steps in a row'):
    train.train(config, tmp_path)


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path, monkeypatch):
  """What may take long comes after the save, and not once told to stop."""
  config = tiny.diffusion(
    mesh={'data': 1}, show_every=5, eval_every=5, save_every=20
  )
  did = []
  picture = 'samples', np.zeros((2, 2, 3), np.uint8), {}
  at, measured = train.Watchdog.at, {'eval_random_frechet': 1.0}

  def spoken(self, phase, step):
    at(self, phase, step)
    if phase in ('saving', 'drawing', 'evaluating'):
      did.append((step, phase))

  monkeypatch.setattr(train.Watchdog, 'at', spoken)
  monkeypatch.setattr(train.Panel, 'draw', lambda self, *state: picture)
  quick = lambda self, *state: measured
  monkeypatch.setattr(train.QuickMetrics, 'measure', quick)
  with monkeypatch.context() as patch:
    told = lambda self, step: step >= 5
    patch.setattr(train.Preemption, 'requested', told)
    assert train.train(config, tmp_path) == train.EXIT_CODE
  assert did == [(5, 'saving')]
  assert checkpoint.Checkpoints(tmp_path).steps() == [5]
  assert train.train(config, tmp_path) == 0
  assert checkpoint.Checkpoints(tmp_path).steps() == [5, 20]
  assert did[-3:] == [(20, 'saving'), (20, 'drawing'), (20, 'evaluating')]
