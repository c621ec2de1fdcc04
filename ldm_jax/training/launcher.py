"""Who started this process, and the others of its run.

A run of many processes is started by srun, mpirun, a TPU pod or three variables
of JAX's own; each process finds out here which it is, and joins the others.
"""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging

from ldm_jax.types import UserError

_TPU_POD = 'TPU pod'


def initialize() -> bool:
  """Joins the other processes of this run, if there are any; first of all.

  Understands, in this order: JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES
  and JAX_PROCESS_ID; SLURM (srun); Open MPI (mpirun); TPU pods. A process that
  is alone on its node takes all devices there, and one of several the device
  with its number; JAX_LOCAL_DEVICE_IDS names others. Must run before anything
  touches a device. Returns whether it joined anything; a lone process does
  nothing.

  Raises UserError where the environment is contradictory or the others did
  not come.
  """
  how, arguments = detect(os.environ)
  if how is None or jax.distributed.is_initialized():
    return False
  try:
    jax.distributed.initialize(**arguments)
  except Exception as error:
    raise UserError(
      f'This process was started as one of several ({how}), but joining the '
      f'others failed: {error}. JAX_COORDINATOR_ADDRESS (host:port of process '
      '0), JAX_NUM_PROCESSES and JAX_PROCESS_ID say it without a launcher.'
    ) from error
  logging.info(
    'Process %d of %d (%s): %d devices here, %d in all.',
    jax.process_index(),
    jax.process_count(),
    how,
    jax.local_device_count(),
    jax.device_count(),
  )
  return True


def detect(env: Mapping[str, str]) -> tuple[str | None, dict[str, Any]]:
  """Says who started this process: (name or None, jax's arguments).

  Raises UserError where only some of JAX's own variables are set.
  """
  own = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
  given = [name for name in own if env.get(name)]
  if given:
    missing = [name for name in own if name not in given]
    if missing:
      raise UserError(
        f'{", ".join(given)} set, but not {", ".join(missing)}. A '
        'multi-process run needs all three; a lone process needs none.'
      )
    return 'environment variables', _from_variables(env)
  # srun sets the step's variables; a bare `python` inside an sbatch script sees
  # the job's ones only, and would wait for ever for others that never come.
  if (tasks := int(env.get('SLURM_STEP_NUM_TASKS') or 1)) > 1:
    nodes = int(env.get('SLURM_STEP_NUM_NODES') or 1)
    return 'SLURM', _devices(env, alone=nodes == tasks)
  if int(env.get('OMPI_COMM_WORLD_SIZE') or 1) > 1:
    here = env.get('OMPI_COMM_WORLD_LOCAL_SIZE')
    return 'Open MPI', _devices(env, alone=here == '1')
  if 'TPU_SKIP_MDS_QUERY' not in env and _on_tpu_pod(env):
    return _TPU_POD, {}
  return None, {}


def check_alone() -> None:
  """Raises UserError where this process was started as one of several.

  For programs that are one process: several would write the same files, and
  those of a cluster wait for each other's devices.
  """
  how, arguments = detect(os.environ)
  if how is None or arguments.get('num_processes') == 1:
    return
  if how == _TPU_POD and not _names_tpu_hosts(os.environ):
    return  # It may well be a single host.
  raise UserError(
    f'This was started as one of several processes ({how}), and it is made '
    'for one: start it once, on one host and without the launcher. train.py '
    'and evaluate.py run on many.'
  )


def _devices(env: Mapping[str, str], alone: bool) -> dict[str, Any]:
  """Which of its node's devices this process takes, for initialize().

  Left to itself, JAX gives each process of SLURM and of Open MPI a single one,
  by its number on the node (jax-ml/jax#16788). Where it is alone there the
  others would idle, and where it is shown one of its own there is none of that
  number.
  """
  if env.get('JAX_LOCAL_DEVICE_IDS'):
    return {}  # JAX reads it, where it is given nothing else.
  shown = env.get('CUDA_VISIBLE_DEVICES', '')
  if alone or (shown and ',' not in shown):
    return {'local_device_ids': ()}  # None is singled out: all that it sees.
  return {}


def _from_variables(env: Mapping[str, str]) -> dict[str, Any]:
  count, index = env['JAX_NUM_PROCESSES'], env['JAX_PROCESS_ID']
  if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
    raise UserError(
      f'JAX_PROCESS_ID={index!r} and JAX_NUM_PROCESSES={count!r}: they must '
      'be whole numbers, and the first below the second.'
    )
  return {
    'coordinator_address': env['JAX_COORDINATOR_ADDRESS'],
    'num_processes': int(count),
    'process_id': int(index),
    # Or JAX asks SLURM and Open MPI for the devices, which are not told here.
    'cluster_detection_method': 'deactivate',
  }


def _on_tpu_pod(env: Mapping[str, str]) -> bool:
  """Several TPU hosts: GKE and multislice say so in variables, and a Cloud TPU
  VM has the device files (there jax asks the metadata server itself)."""
  if env.get('JAX_PLATFORMS', 'tpu').split(',')[0] not in ('', 'tpu'):
    return False
  if _names_tpu_hosts(env):
    return True
  chips = os.path.exists('/dev/accel0') or os.path.exists('/dev/vfio/0')
  hosts = _tpu_hosts(env)
  return not hosts and chips and importlib.util.find_spec('libtpu') is not None


def _names_tpu_hosts(env: Mapping[str, str]) -> bool:
  """Whether variables name several."""
  several = ',' in _tpu_hosts(env)
  return several or bool(env.get('MEGASCALE_COORDINATOR_ADDRESS'))


def _tpu_hosts(env: Mapping[str, str]) -> str:
  return env.get('TPU_PROCESS_ADDRESSES') or env.get('TPU_WORKER_HOSTNAMES', '')
