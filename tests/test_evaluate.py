"""evaluate.py: flags, refusals in one line, and a real kill."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import evaluate
from ldm_jax.diffusion.settings import Settings
from ldm_jax.evaluation.shards import Shards
from ldm_jax.measuring import sweep
from ldm_jax.types import UserError


def given(function, **values):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(**values):
    return function()


def test_flags_become_options():
  options = given(
    evaluate.options_of_flags,
    samples='a',
    metrics=['fid', 'kid'],
    protocol='adm',
    kid_subset_size=100,
    guidance=2.5,
  )
  assert options.masks == ''
  found = given(evaluate.options_of_flags, workdir='a', masks='thin_512')
  assert found.masks == 'thin_512'
  assert options.metrics == ('fid', 'kid') and options.num == 1000
  assert options.protocol.name == 'adm'
  assert options.protocol.kid_subset_size == 100
  assert options.settings.guidance == 2.5


def test_settings_mean_what_they_mean_when_sampling():
  of = lambda **flags: (
    given(evaluate.options_of_flags, samples='a', **flags).settings
  )
  assert of() == Settings()
  assert of(sampler='unipc').chosen_spacing == 'log_snr'
  found = of(guidance_interval=['1', '9'], guidance_rescale=0.5, threshold=0.9)
  assert found.guidance_interval == (1.0, 9.0) and found.threshold == 0.9


def test_a_sweep_varies_what_it_names():
  assert given(evaluate.grid_of_flags) is None
  grid = given(
    evaluate.grid_of_flags, sweep_steps=['5', '10'], guidance=3.0, eta=0.5
  )
  assert grid == sweep.Grid([5, 10], [0.5], [3.0])
  with pytest.raises(UserError, match='--sweep_eta=a'):
    given(evaluate.grid_of_flags, sweep_eta=['a'])


def test_an_unknown_protocol_names_both():
  with pytest.raises(UserError, match='torch-fidelity, adm'):
    given(evaluate.options_of_flags, samples='a', protocol='clean')


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(text_run, tmp_path):
  """SIGKILL after the first shard: the same images in the end, each once."""
  command = [
    sys.executable,
    evaluate.__file__,
    f'--workdir={text_run}',
    '--num=120',
    '--batch_size=8',
    '--steps=20',
    '--metrics=random_frechet',
    f'--cache={tmp_path / "cache"}',
  ]
  env = {**os.environ, 'XLA_FLAGS': ''}
  start = lambda out: subprocess.Popen([*command, f'--out={out}'], env=env)
  begun = start(tmp_path / 'killed')
  folder = tmp_path / 'killed' / 'samples'
  deadline = time.monotonic() + 300
  while not list(folder.glob('*.npy')) and time.monotonic() < deadline:
    time.sleep(0.02)
  begun.send_signal(signal.SIGKILL)
  begun.wait()
  missing = len(list(Shards.open(folder).missing()))
  assert 0 < missing < 15
  for out in ('killed', 'whole'):
    assert start(tmp_path / out).wait() == 0
  killed, whole = (
    Shards.open(tmp_path / out / 'samples') for out in ('killed', 'whole')
  )
  assert len(list(folder.glob('*.npy'))) == 15
  for k in range(120):
    np.testing.assert_array_equal(killed.read(k), whole.read(k))
