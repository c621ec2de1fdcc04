"""How a run ends before its time, and goes on."""

import pytest

import train
from ldm_jax.training import checkpoint
from tests import tiny


def test_ten_bad_steps_end_the_run(tmp_path):
  config = tiny.first_stage(optim={'learning_rate': 1e30}, mesh={'data': 1})
  with pytest.raises(train.guard.TooManyBadSteps, match='10 steps in a row'):
    train.train(config, tmp_path)


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path, monkeypatch):
  config = tiny.diffusion(mesh={'data': 1}, show_every=100)
  asked = []

  def requested(self, step):
    asked.append(step)
    return step >= 5

  with monkeypatch.context() as patch:
    patch.setattr(train.Preemption, 'requested', requested)
    assert train.train(config, tmp_path) == train.EXIT_CODE
  assert checkpoint.Checkpoints(tmp_path).steps() == [5]
  assert train.train(config, tmp_path) == 0
  assert checkpoint.Checkpoints(tmp_path).steps() == [5, 20]
