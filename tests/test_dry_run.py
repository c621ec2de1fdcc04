"""A dry run says what training would be, and writes nothing."""

import re
import types

import jax
import ml_collections
import numpy as np
import pytest

import train
from ldm_jax import dry_run
from ldm_jax.data.stream import DataError
from ldm_jax.training import parallel
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


def test_of_devices_elsewhere_nothing_needs_to_be_here(
  capsys, tmp_path, monkeypatch
):
  """Neither data nor first stage; and what is sharded takes less."""
  monkeypatch.setattr(parallel, 'MIN_SHARDED_ELEMENTS', 16)
  small = jax.jit(lambda x: x + 1).lower(np.zeros(4))  # Little to compile.
  monkeypatch.setattr(dry_run, 'lower_step', lambda run: small)
  config = tiny.diffusion(
    mesh={'data': 1, 'fsdp': 8},
    first_stage_from='',
    data={'source': 'folder', 'path': str(tmp_path / 'not_here')},
  )
  assert dry_run.report(config, dry_run.Elsewhere(8, 1.0)) == 0
  said = capsys.readouterr().out
  sizes = r'([\d.]+) MiB in all, ([\d.]+) MiB per device'
  whole, share = map(float, re.search(sizes, said).groups())
  assert share < 0.3 * whole
  assert 'a device has 1.00 GiB: it fits' in said


@pytest.mark.parametrize('given', [(0, 80.0), (8, 0.0), (-1, 80.0)])
def test_devices_elsewhere_are_told_whole(given):
  with pytest.raises(UserError, match='say both, how many devices and the GiB'):
    dry_run.Elsewhere(*given)


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
  monkeypatch.setattr(dry_run, 'lower_step', None)
  with pytest.raises(UserError, match=told):
    dry_run.report(tiny.diffusion(**changes))


def test_data_that_breaks_is_one_line(monkeypatch, capsys):
  def broken(config):
    raise DataError('Reading data failed near example 7')

  value = ml_collections.ConfigDict(tiny.diffusion())
  monkeypatch.setattr(train, '_CONFIG', types.SimpleNamespace(value=value))
  for flag, given in (('', True), ('_DEVICES', 0), ('_MEMORY', 0.0)):
    given = types.SimpleNamespace(value=given)
    monkeypatch.setattr(train, f'_DRY_RUN{flag}', given)
  monkeypatch.setattr(dry_run, 'report', broken)
  assert train.main() == 1
  assert capsys.readouterr().err == (
    'Error: Reading data failed near example 7\n'
  )
