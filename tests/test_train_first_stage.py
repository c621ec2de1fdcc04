"""The first stage trained: on any devices, and resumed at any step."""

import numpy as np
import pytest

import train
from ldm_jax.training import checkpoint, parallel
from ldm_jax.training.items import named_leaves
from tests import tiny, whole_runs

slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def shard_small_arrays(monkeypatch):
  monkeypatch.setattr(parallel, 'MIN_SHARDED_ELEMENTS', 16)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('one_device')
  return whole_runs.on_one_device('first_stage', folder, save_every=7)


@pytest.fixture(scope='module')
def saved_at_every_step(tmp_path_factory):
  folder = tmp_path_factory.mktemp('every_step')
  return whole_runs.on_one_device('first_stage', folder, save_every=1)


@pytest.mark.parametrize(
  'mesh',
  [(8, 1), pytest.param((4, 2), marks=slow), pytest.param((2, 4), marks=slow)],
)
def test_eight_devices_train_as_one_does(mesh, whole, tmp_path):
  whole_runs.check_devices('first_stage', mesh, whole, tmp_path)


def test_resume_is_continue(whole, tmp_path):
  whole_runs.check_resume('first_stage', 7, whole, tmp_path)


@slow
@pytest.mark.parametrize('stop', [1, 2, 19])
def test_resume_is_continue_anywhere(stop, saved_at_every_step, tmp_path):
  whole_runs.check_resume('first_stage', stop, saved_at_every_step, tmp_path)


def test_the_optimizers_of_both_networks_move(tmp_path):
  """Within one step: the run of the other tests, to its third."""
  config = tiny.first_stage(mesh={'data': 1}, num_steps=3, save_every=1)
  assert train.train(config, tmp_path) == 0
  before, _ = checkpoint.load_items(tmp_path, None, 2)
  after, _ = checkpoint.load_items(tmp_path, None, 3)

  def still(network) -> set:
    old, new = (named_leaves(network(found)) for found in (before, after))
    return {name for name in old if np.array_equal(old[name], new[name])}

  assert not still(lambda items: items['first_stage'])
  # The hinge loss is linear while every logit is between its margins, as those
  # of a fresh discriminator are: what the last bias adds to real and to false
  # images cancels there, exactly or but for rounding.
  assert still(lambda items: items['train']['disc_params']) <= {'conv_2/bias'}
