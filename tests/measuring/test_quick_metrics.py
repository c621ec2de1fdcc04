"""Cheap numbers while training: in the log, of held-out data, repeatable."""

import json
import types

import numpy as np
import pytest

import train
from ldm_jax import build
from ldm_jax.evaluation import moments
from ldm_jax.measuring import generate, quick_metrics
from ldm_jax.measuring.quick_metrics import QuickMetrics
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
  with pytest.raises(UserError, match='eval_num=1: one image'):
    train.train(tiny.first_stage(eval_num=1), tmp_path)


def test_a_single_image_is_no_distribution(tmp_path):
  class Run:
    config = types.SimpleNamespace(eval_every=1)
    parts = build.parts(tiny.first_stage())
    eval_source = [None]

  with pytest.raises(UserError, match='of which there is 1.*eval_every=0'):
    QuickMetrics(Run, 10)
  Run.config.eval_every = 0
  QuickMetrics(Run, 10)


def test_the_watchdog_hears_of_every_batch(monkeypatch):
  drawn = [np.zeros((64, 32, 32, 3), np.uint8)] * 3
  ldm = types.SimpleNamespace(sample_batches=lambda **given: iter(drawn))
  run = types.SimpleNamespace(
    config=types.SimpleNamespace(eval_every=0),
    parts=build.parts(tiny.diffusion()),
    sampler=lambda state, held: ldm,
  )
  told = types.SimpleNamespace(of=lambda first, num: ({}, {}))
  monkeypatch.setattr(generate, 'Conditions', lambda *a: told)
  quick, beats = QuickMetrics(run, 192), []
  quick._reference = moments.of([np.eye(64), np.ones((2, 64))])
  monkeypatch.setattr(
    quick_metrics.features, 'stream',
    lambda network, batches: [{'pool': np.eye(64)[: len(b)]} for b in batches],
  )  # fmt: skip
  quick.measure(None, None, lambda: beats.append(1))
  assert len(beats) == 3
