"""A dry run says what training would be, and writes nothing."""

import types

import ml_collections
import pytest

import train
from ldm_jax import dry_run
from ldm_jax.data.stream import DataError
from ldm_jax.types import UserError
from tests import tiny


def test_everything_is_said(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = tiny.diffusion(mesh={'data': 1})
  assert dry_run.report(config) == 0
  said = capsys.readouterr().out
  for words in ('"num_steps": 20', 'parameters of the U-Net: ',
                'parameters of the conditioner: ', 'memory of a device: ',
                'checkpoint: ', 's a step', 'for 20 steps'):  # fmt: skip
    assert words in said
  assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_not_tried(capsys, monkeypatch):
  monkeypatch.setattr(dry_run, 'free_bytes', lambda: 2**20)
  assert dry_run.report(tiny.first_stage(mesh={'data': 1})) == 0
  assert 'this does not fit' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('changes', 'told'),
  [
    ({'first_stage_from': ''}, 'first_stage_from is not set'),
    ({'init_from': 'nowhere'}, 'nowhere/config.json does not exist'),
  ],
)
def test_what_is_missing_is_told_before_anything_is_compiled(
  changes, told, monkeypatch
):
  monkeypatch.setattr(dry_run, 'compile_step', None)
  with pytest.raises(UserError, match=told):
    dry_run.report(tiny.diffusion(**changes))


def test_data_that_breaks_is_one_line(monkeypatch, capsys):
  def broken(config):
    raise DataError('Reading data failed near example 7')

  value = ml_collections.ConfigDict(tiny.diffusion())
  monkeypatch.setattr(train, '_CONFIG', types.SimpleNamespace(value=value))
  monkeypatch.setattr(train, '_DRY_RUN', types.SimpleNamespace(value=True))
  monkeypatch.setattr(dry_run, 'report', broken)
  assert train.main() == 1
  assert capsys.readouterr().err == (
    'Error: Reading data failed near example 7\n'
  )
