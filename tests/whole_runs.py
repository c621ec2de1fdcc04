"""Whole runs of a tiny model: the same on any devices, and resumed anywhere.

The tests of each stage are a file, so that two processes can share them.
"""

import json
import pathlib

import jax
import numpy as np

import train
from ldm_jax.training import checkpoint
from tests import tiny

# What depends on the clock, and may differ between equal runs.
CLOCK = {'images_per_second', 'data_wait', 'eta_seconds', 'memory_bytes'}


def on_one_device(
  stage: str, workdir: pathlib.Path, save_every: int
) -> pathlib.Path:
  """A run of 20 steps; saving takes longer than they do."""
  config = tiny.STAGES[stage](mesh={'data': 1}, save_every=save_every)
  assert train.train(config, workdir) == 0
  return workdir


def check_devices(
  stage: str, mesh: tuple[int, int], whole: pathlib.Path, workdir: pathlib.Path
) -> None:
  """Eight devices have the losses of one."""
  data, fsdp = mesh
  config = tiny.STAGES[stage](mesh={'data': data, 'fsdp': fsdp})
  assert train.train(config, workdir) == 0
  np.testing.assert_allclose(_losses(workdir), _losses(whole), rtol=1e-5)


def check_resume(
  stage: str, stop: int, whole: pathlib.Path, workdir: pathlib.Path
) -> None:
  """Bitwise: parameters, optimizers, EMA, data position, metrics."""
  config = json.loads((whole / 'config.json').read_text())
  # The run as it was after `stop` steps.
  (workdir / 'checkpoints').mkdir()
  (workdir / 'config.json').write_text(json.dumps(config))
  (workdir / 'metrics.jsonl').write_bytes(
    (whole / 'metrics.jsonl').read_bytes()
  )
  source = whole / 'checkpoints' / str(stop)
  (workdir / 'checkpoints' / str(stop)).symlink_to(source)

  assert train.train(config, workdir) == 0
  saved, meta = checkpoint.load_items(workdir, None, 20)
  expected, expected_meta = checkpoint.load_items(whole, None, 20)
  jax.tree.map(np.testing.assert_array_equal, saved, expected)
  assert meta == expected_meta
  assert _scalars(workdir) == _scalars(whole)


def _scalars(workdir: pathlib.Path) -> list[dict]:
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [{k: v for k, v in r.items() if k not in CLOCK} for r in rows]


def _losses(workdir: pathlib.Path) -> np.ndarray:
  return np.array([r['loss'] for r in _scalars(workdir) if 'loss' in r])
