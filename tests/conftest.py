"""Every test sees eight virtual CPU devices, whatever machine it runs on.

`jax.devices()[0]` is what a single-device test uses; a computation that names
no device runs there too, at the speed of a plain CPU backend (the virtual
devices share one pool of threads).
"""

import os
import pathlib

import pytest

# Read once, when jax is first imported: nothing above this may import it.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    *(
      flag
      for flag in os.environ.get('XLA_FLAGS', '').split()
      if 'host_platform_device_count' not in flag
    ),
    '--xla_force_host_platform_device_count=8',
    # As many test processes as cores: a program's machine code is made in one
    # piece, which takes a fifth less work than in 32 for as many threads.
    '--xla_cpu_parallel_codegen_split_count=1',
    # Without optimisation (`make test`) the older emitters take half the time.
    *(
      ['--xla_cpu_use_fusion_emitters=false']
      if os.environ.get('JAX_DISABLE_MOST_OPTIMIZATIONS', '0') not in ('', '0')
      else []
    ),
  ]
)
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Subprocesses of the tests inherit it, so that they compile nothing twice.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path(__file__).parents[1] / '.cache' / 'jax'),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')

# Files of few tests that take long. Begun last they would leave one process at
# work alone, so they come first (and xdist is told to keep the order).
LONG = (
  'test_train', 'test_run.py', 'test_guides.py', 'test_pipeline.py',
  'test_latent_cache.py', 'test_quick_metrics.py', 'test_sweep.py',
  'test_diffusion_step.py', 'test_first_stage_step.py',
)  # fmt: skip


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: not item.path.name.startswith(LONG))


@pytest.fixture(scope='session')
def text_run(tmp_path_factory):
  """The workdir of an untrained text model of scenes, at step 2."""
  from tests import tiny

  return _untrained(tmp_path_factory.mktemp('text_run'), tiny.diffusion())


@pytest.fixture(scope='session')
def vq_run(tmp_path_factory):
  """The workdir of an untrained VQ first stage of scenes, at step 2."""
  from tests import tiny

  config = tiny.first_stage(first_stage={'name': 'vq', 'num_codes': 16})
  return _untrained(tmp_path_factory.mktemp('vq_run'), config)


def _untrained(folder, config):
  """Random weights in their shapes: nothing is compiled."""
  import jax
  import numpy as np

  from ldm_jax import build
  from ldm_jax.training import checkpoint

  parts = build.parts(config)
  key, rng = jax.random.key(0), np.random.default_rng(0)

  def items():
    found = {'first_stage': build.init_first_stage(parts, key)}
    if parts.model is not None:
      training = build.training(parts)
      wanted = training.to_items(training.init(key))
      found |= {name: wanted[name] for name in ('model', 'ema')}
    return found

  def fill(path, leaf):
    if leaf.ndim < 2:
      value = float(path[-1].key == 'scale')
      return np.full(leaf.shape, value, np.float32)
    deviation = np.float32(np.prod(leaf.shape[:-1]) ** -0.5)
    return deviation * rng.standard_normal(leaf.shape, np.float32)

  filled = jax.tree_util.tree_map_with_path(fill, jax.eval_shape(items))
  checkpoint.write_config(folder, config)
  checkpoints = checkpoint.Checkpoints(folder)
  checkpoints.save(2, filled, {'scale_factor': 0.75})
  checkpoints.close()
  return folder
