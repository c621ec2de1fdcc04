"""Tests for ldm_jax.training.launcher."""

import importlib.util
import os
import types

import pytest
from jax._src import distributed

from ldm_jax.training import launcher
from ldm_jax.types import UserError


@pytest.mark.parametrize(
  'env, name',
  [
    ({}, None),
    ({'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '8'}, None),  # No srun: alone.
    ({'SLURM_STEP_NUM_TASKS': '1'}, None),
    ({'SLURM_STEP_NUM_TASKS': '8'}, 'SLURM'),
    ({'OMPI_COMM_WORLD_SIZE': '4'}, 'Open MPI'),
    ({'OMPI_COMM_WORLD_SIZE': '1'}, None),
    ({'TPU_WORKER_HOSTNAMES': 'a,b'}, 'TPU pod'),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, None),
    ({'TPU_WORKER_HOSTNAMES': 'a,b', 'JAX_PLATFORMS': 'cpu'}, None),
    ({'MEGASCALE_COORDINATOR_ADDRESS': 'a'}, 'TPU pod'),
  ],
)
def test_launchers(env, name):
  assert launcher.detect(env)[0] == name


def test_plain_variables_win_over_launchers():
  env = {
    'JAX_COORDINATOR_ADDRESS': 'host:1234',
    'JAX_NUM_PROCESSES': '4',
    'JAX_PROCESS_ID': '3',
    'SLURM_STEP_NUM_TASKS': '8',
  }
  assert launcher.detect(env) == (
    'environment variables',
    {
      'coordinator_address': 'host:1234',
      'num_processes': 4,
      'process_id': 3,
      'cluster_detection_method': 'deactivate',
    },
  )


# As srun sets them for the last of four processes, on four nodes.
SLURM = {
  'SLURM_JOB_ID': '7',
  'SLURM_STEP_NODELIST': 'node[1-4]',
  'SLURM_NTASKS': '4',
  'SLURM_STEP_NUM_TASKS': '4',
  'SLURM_STEP_NUM_NODES': '4',
  'SLURM_PROCID': '3',
  'SLURM_LOCALID': '0',
}
# As mpirun does.
OPEN_MPI = {
  'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.0.0.1:34911',
  'OMPI_COMM_WORLD_SIZE': '4',
  'OMPI_COMM_WORLD_RANK': '3',
  'OMPI_COMM_WORLD_LOCAL_SIZE': '1',
  'OMPI_COMM_WORLD_LOCAL_RANK': '0',
}
ON_ONE_NODE = {
  'SLURM_STEP_NUM_NODES': '1',
  'SLURM_LOCALID': '3',
  'OMPI_COMM_WORLD_LOCAL_SIZE': '4',
  'OMPI_COMM_WORLD_LOCAL_RANK': '3',
}
BY_HAND = {
  'JAX_COORDINATOR_ADDRESS': 'host:1234',
  'JAX_NUM_PROCESSES': '5',
  'JAX_PROCESS_ID': '4',
}


@pytest.mark.parametrize('started', [SLURM, OPEN_MPI])
@pytest.mark.parametrize(
  'changes, taken',
  [
    ({}, 'all'),
    ({'CUDA_VISIBLE_DEVICES': '0,1,2,3'}, 'all'),  # Of these; CUDA sees to it.
    ({'JAX_LOCAL_DEVICE_IDS': '1,2'}, '1,2'),
    (ON_ONE_NODE, '3'),
    (ON_ONE_NODE | {'CUDA_VISIBLE_DEVICES': '0,1,2,3'}, '3'),
    (ON_ONE_NODE | {'CUDA_VISIBLE_DEVICES': '3'}, 'all'),
    (ON_ONE_NODE | {'JAX_LOCAL_DEVICE_IDS': '1,2'}, '1,2'),
    (BY_HAND, 'all'),
    (BY_HAND | {'JAX_LOCAL_DEVICE_IDS': '1,2'}, '1,2'),
  ],
)
def test_the_devices_that_jax_leaves_a_process(
  started, changes, taken, monkeypatch
):
  """All, where it is alone on its node or has been shown one of its own."""
  for name, value in (started | changes).items():
    monkeypatch.setenv(name, value)
  found = {}
  config = types.SimpleNamespace(update=found.__setitem__)
  client = types.SimpleNamespace(connect=lambda: None)
  manager = types.SimpleNamespace(initialize=lambda client: None)
  library = types.SimpleNamespace(
    get_distributed_runtime_client=lambda *args, **options: client,
    create_preemption_sync_manager=lambda: manager,
  )
  monkeypatch.setattr(distributed, 'config', config)
  monkeypatch.setattr(distributed, '_jax', library)
  state = distributed.State()
  state.initialize(**launcher.detect(os.environ)[1])
  assert found.get('jax_cuda_visible_devices', 'all') == taken
  place = (4, 5) if 'JAX_PROCESS_ID' in changes else (3, 4)
  assert (state.process_id, state.num_processes) == place


# Programs that are one process.


@pytest.mark.parametrize(
  'env', [SLURM, OPEN_MPI, BY_HAND, {'TPU_WORKER_HOSTNAMES': 'a,b'}]
)
def test_one_of_several_is_refused(env, monkeypatch):
  monkeypatch.delenv('JAX_PLATFORMS')
  monkeypatch.delenv('TPU_SKIP_MDS_QUERY', raising=False)  # By importing jax.
  for name, value in env.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(UserError, match='one of several.*without the launcher'):
    launcher.check_alone()


@pytest.mark.parametrize(
  'env',
  [
    {},
    {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '8'},  # In sbatch, without srun.
    {'SLURM_STEP_NUM_TASKS': '1'},
    BY_HAND | {'JAX_NUM_PROCESSES': '1', 'JAX_PROCESS_ID': '0'},
  ],
)
def test_one_alone_is_not(env, monkeypatch):
  """Nor on a Cloud TPU VM, which does not say how many there are."""
  for name, value in env.items():
    monkeypatch.setenv(name, value)
  launcher.check_alone()
  monkeypatch.delenv('JAX_PLATFORMS')
  monkeypatch.delenv('TPU_SKIP_MDS_QUERY', raising=False)  # By importing jax.
  monkeypatch.setattr(os.path, 'exists', lambda path: True)
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)
  assert launcher.detect({})[0] == 'TPU pod'
  launcher.check_alone()


@pytest.mark.parametrize(
  'env, message',
  [
    ({'JAX_PROCESS_ID': '0'}, 'JAX_PROCESS_ID set, but not JAX_COORDINATOR'),
    (
      {
        'JAX_COORDINATOR_ADDRESS': 'host:1',
        'JAX_NUM_PROCESSES': '2',
        'JAX_PROCESS_ID': '2',
      },
      "JAX_PROCESS_ID='2' and JAX_NUM_PROCESSES='2'",
    ),
  ],
)
def test_contradictions_fail_loudly(env, message):
  with pytest.raises(UserError, match=message):
    launcher.detect(env)


def test_a_lone_process_joins_nothing():
  assert not launcher.initialize()
