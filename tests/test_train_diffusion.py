"""The second stage trained: on any devices, and resumed at any step."""

import pytest

from ldm_jax.training import parallel
from tests import whole_runs

slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def shard_small_arrays(monkeypatch):
  monkeypatch.setattr(parallel, 'MIN_SHARDED_ELEMENTS', 16)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('one_device')
  return whole_runs.on_one_device('diffusion', folder, save_every=7)


@pytest.fixture(scope='module')
def saved_at_every_step(tmp_path_factory):
  folder = tmp_path_factory.mktemp('every_step')
  return whole_runs.on_one_device('diffusion', folder, save_every=1)


@pytest.mark.parametrize(
  'mesh',
  [pytest.param((8, 1), marks=slow), pytest.param((4, 2), marks=slow), (2, 4)],
)
def test_eight_devices_train_as_one_does(mesh, whole, tmp_path):
  whole_runs.check_devices('diffusion', mesh, whole, tmp_path)


def test_resume_is_continue(whole, tmp_path):
  whole_runs.check_resume('diffusion', 7, whole, tmp_path)


@slow
@pytest.mark.parametrize('stop', [1, 2, 19])
def test_resume_is_continue_anywhere(stop, saved_at_every_step, tmp_path):
  whole_runs.check_resume('diffusion', stop, saved_at_every_step, tmp_path)
