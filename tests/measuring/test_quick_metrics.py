"""Cheap numbers while training: in the log, of held-out data, repeatable."""

import json

import numpy as np
import pytest

import train
from ldm_jax.types import UserError
from tests import tiny


def logged(workdir) -> dict[int, dict]:
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  of = lambda row: {k: v for k, v in row.items() if k.startswith('eval_')}
  return {row['step']: of(row) for row in rows if 'eval_' in str(row)}


def test_of_samples(tmp_path):
  config = tiny.diffusion(
    num_steps=2, mesh={'data': 1}, show_every=100, eval_every=1, eval_num=10
  )
  train.train(config, tmp_path)
  found = logged(tmp_path)
  assert set(found) == {1, 2}
  for row in found.values():
    assert row['eval_random_frechet'] > 0
    assert 0 <= row['eval_scene_all'] <= row['eval_scene_colour'] <= 1


def test_of_reconstructions(tmp_path):
  config = tiny.first_stage(
    num_steps=2, mesh={'data': 1}, show_every=100, eval_every=2, eval_num=10
  )
  train.train(config, tmp_path)
  (row,) = (r for r in logged(tmp_path).values() if 'eval_ssim' in r)
  assert row['eval_random_rfrechet'] > 0 and np.isfinite(row['eval_psnr'])
  assert -1 <= row['eval_ssim'] <= 1


def test_impossible_settings(tmp_path):
  with pytest.raises(UserError, match='eval_every=-1'):
    train.train(tiny.first_stage(eval_every=-1), tmp_path)
  with pytest.raises(UserError, match='eval_num=0'):
    train.train(tiny.first_stage(eval_num=0), tmp_path)
