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
  return whole_runs.on_one_device('diffusion', folder)


@pytest.mark.parametrize(
  'mesh',
  [pytest.param((8, 1), marks=slow), pytest.param((4, 2), marks=slow), (2, 4)],
)
def test_eight_devices_train_as_one_does(mesh, whole, tmp_path):
  whole_runs.check_devices('diffusion', mesh, whole, tmp_path)


@pytest.mark.parametrize(
  'stop', [*(pytest.param(n, marks=slow) for n in (1, 2, 19)), 7]
)
def test_resume_is_continue(stop, whole, tmp_path):
  whole_runs.check_resume('diffusion', stop, whole, tmp_path)
