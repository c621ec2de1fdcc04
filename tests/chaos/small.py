"""The smallest runs that have everything that can be lost, and how to compare.

Forty steps of four examples out of twenty: eight epochs. Dropout, posterior
noise, moving averages, both optimizers, accumulation and a schedule are there.
"""

import copy
import json
import pathlib
from unittest import mock

import numpy as np

from ldm_jax import build
from ldm_jax import run as runs
from ldm_jax.training import checkpoint
from ldm_jax.training.items import named_leaves
from tests.tiny import merged

STEPS = 40
# What depends on the clock, and may differ between equal runs.
CLOCK = {'images_per_second', 'data_wait', 'eta_seconds', 'memory_bytes'}


def first_stage(**changes) -> dict:
  """A KL autoencoder with a discriminator from step 4 on."""
  config = {
    'stage': 'first_stage',
    'num_steps': STEPS,
    'batch_size': 4,
    'grad_accum': 2,
    'log_every': 1,
    'show_every': 1000,
    'save_every': STEPS,
    'keep_checkpoints': 100,
    'mesh': {'data': 1},
    'data': {'source': 'scenes', 'size': 16, 'num_examples': 20, 'flip': True},
    'first_stage': {
      'name': 'kl',
      'z_channels': 2,
      'embed_dim': 2,
      'channels': 4,
      'multipliers': (1, 2),
      'num_res_blocks': 1,
      'mid_attention': False,
      'norm_groups': 2,
    },
    'loss': {
      'perceptual_weight': 0.0,
      'disc_weight': 0.5,
      'disc_start': 4,
      'disc_layers': 1,
      'disc_channels': 4,
    },
    'optim': {'learning_rate': 1e-4, 'b1': 0.5, 'schedule': 'cosine'},
  }
  return merged(config, changes)


def diffusion(**changes) -> dict:
  """A U-Net on pixels."""
  config = {
    **first_stage(),
    'stage': 'diffusion',
    'grad_accum': 1,
    'first_stage': {'name': 'identity'},
    'scale_factor': 3.3,
    'task': {'name': 'unconditional'},
    'unet': {
      'out_channels': 3,
      'channels': 8,
      'multipliers': (1,),
      'attention_levels': (),
      'num_res_blocks': 1,
      'num_heads': 1,
      'norm_groups': 4,
      'dropout': 0.1,
    },
    'loss': {'prediction': 'eps'},
    'optim': {'learning_rate': 1e-3, 'schedule': 'cosine'},
    'sampling': {'num': 1, 'steps': 1},
  }
  return merged(config, changes)


STAGES = {'first_stage': first_stage, 'diffusion': diffusion}


class Trainer:
  """train.train in this process, compiling a run's step only once."""

  def __init__(self, config: dict):
    self.run = runs.open_run(build.parts(config))
    _ = self.run.step

  def __call__(self, config: dict, workdir) -> int:
    """The exit code; raises what train.train raises."""
    import train

    def open_run(parts):
      run = copy.copy(self.run)  # With its compiled step.
      run.parts = parts
      return run

    with mock.patch.object(runs, 'open_run', open_run):
      return train.train(config, str(workdir))


def items(workdir, step: int | None = None) -> tuple[dict, dict]:
  """({'item/path': array}, meta) of a step, the newest by default."""
  found, meta = checkpoint.load_items(str(workdir), None, step)
  leaves = {k: np.asarray(v) for k, v in named_leaves(found).items()}
  return leaves, meta


def scalars(workdir) -> list[dict]:
  """metrics.jsonl without what the clock decides."""
  lines = (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [{k: v for k, v in r.items() if k not in CLOCK} for r in rows]


def assert_same_arrays(found: dict, expected: dict, but=()) -> None:
  """Bit for bit, dtypes too."""
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    if name not in but:
      assert found[name].dtype == value.dtype, name
      assert found[name].tobytes() == value.tobytes(), name


def assert_same_run(workdir, reference) -> None:
  """Last checkpoint, its meta and all scalars are those of the reference."""
  found, meta = items(workdir)
  expected, expected_meta = items(reference)
  assert_same_arrays(found, expected)
  assert meta == expected_meta
  assert scalars(workdir) == scalars(reference)


def assert_close_run(workdir, reference) -> None:
  """Read the same examples; losses within 1e-5 of the reference's."""
  assert items(workdir)[1] == items(reference)[1]
  losses = lambda folder: [r['loss'] for r in scalars(folder) if 'loss' in r]
  np.testing.assert_allclose(losses(workdir), losses(reference), rtol=1e-5)


def resumable(workdir, reference, config: dict, step: int) -> None:
  """Makes `workdir` what the reference was after `step` steps."""
  workdir, reference = pathlib.Path(workdir), pathlib.Path(reference)
  (workdir / 'checkpoints').mkdir(parents=True)
  checkpoint.write_config(workdir, config)
  log = (reference / 'metrics.jsonl').read_bytes()
  (workdir / 'metrics.jsonl').write_bytes(log)
  there = reference.absolute() / 'checkpoints' / str(step)
  (workdir / 'checkpoints' / str(step)).symlink_to(there)
