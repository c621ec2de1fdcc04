"""Both stages trained: the same on any devices, and resumed at any step."""

import json
import pathlib

import jax
import numpy as np
import pytest

import train
from ldm_jax.training import checkpoint, parallel
from ldm_jax.training.items import named_leaves
from tests import tiny

# What depends on the clock, and may differ between equal runs.
CLOCK = {'images_per_second', 'data_wait', 'eta_seconds', 'memory_bytes'}


@pytest.fixture(autouse=True)
def shard_small_arrays(monkeypatch):
  monkeypatch.setattr(parallel, 'MIN_SHARDED_ELEMENTS', 16)


def scalars(workdir) -> list[dict]:
  lines = (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [{k: v for k, v in r.items() if k not in CLOCK} for r in rows]


def losses(workdir) -> np.ndarray:
  return np.array([r['loss'] for r in scalars(workdir) if 'loss' in r])


def items(workdir, step):
  found, meta = checkpoint.load_items(workdir, None, step)
  return found, meta


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope='module')
def one_device(tmp_path_factory):
  """Both stages, 20 steps on one device, saved at every step."""
  folder = tmp_path_factory.mktemp('one_device')
  for stage, config in tiny.STAGES.items():
    config = config(mesh={'data': 1}, save_every=1)
    assert train.train(config, folder / stage) == 0
  return folder


@pytest.mark.parametrize('stage', tiny.STAGES)
@pytest.mark.parametrize(
  'mesh', [(8, 1), pytest.param((4, 2), marks=pytest.mark.slow), (2, 4)]
)
def test_eight_devices_train_as_one_does(stage, mesh, one_device, tmp_path):
  data, fsdp = mesh
  config = tiny.STAGES[stage](mesh={'data': data, 'fsdp': fsdp})
  assert train.train(config, tmp_path) == 0
  np.testing.assert_allclose(
    losses(tmp_path), losses(one_device / stage), rtol=1e-5
  )


@pytest.mark.parametrize('stage', tiny.STAGES)
@pytest.mark.parametrize(
  'stop', [1, pytest.param(2, marks=pytest.mark.slow), 7, 19]
)
def test_resume_is_continue(stage, stop, one_device, tmp_path):
  """Bitwise: parameters, optimizers, EMA, data position, metrics."""
  whole = one_device / stage
  config = tiny.STAGES[stage](mesh={'data': 1}, save_every=1)
  # The run as it was after `stop` steps.
  (tmp_path / 'checkpoints').mkdir()
  (tmp_path / 'config.json').write_text(json.dumps(config))
  (tmp_path / 'metrics.jsonl').write_bytes(
    (whole / 'metrics.jsonl').read_bytes()
  )
  source = whole / 'checkpoints' / str(stop)
  (tmp_path / 'checkpoints' / str(stop)).symlink_to(source)

  assert train.train(config, tmp_path) == 0
  saved, meta = items(tmp_path, 20)
  expected, expected_meta = items(whole, 20)
  assert_same(saved, expected)
  assert meta == expected_meta
  assert scalars(tmp_path) == scalars(whole)


def test_the_optimizers_of_both_networks_move(one_device):
  before, _ = items(one_device / 'first_stage', 2)
  after, _ = items(one_device / 'first_stage', 3)

  def still(network) -> set:
    old, new = (named_leaves(network(found)) for found in (before, after))
    return {name for name in old if np.array_equal(old[name], new[name])}

  assert not still(lambda items: items['first_stage'])
  # The hinge loss is linear while every logit is between its margins, as those
  # of a fresh discriminator are: what the last bias adds to real and to false
  # images cancels there, exactly or but for rounding.
  assert still(lambda items: items['train']['disc_params']) <= {'conv_2/bias'}


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
