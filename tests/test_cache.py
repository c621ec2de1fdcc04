"""A latent cache trains as the images do, is filled once, and is nobody's."""

import json
import pathlib

import jax
import numpy as np
import pytest

import train
from ldm_jax import build, cache
from ldm_jax import run as runs
from ldm_jax.data import latents
from ldm_jax.types import UserError
from tests import tiny


def config(folder='', **changes):
  base = tiny.diffusion(
    num_steps=6,
    show_every=100,
    mesh={'data': 1},
    latent_cache=str(folder),
    data={'flip': True},
    unet={'attention': 'self', 'attention_levels': ()},
  )
  base['task'] = {'name': 'class_label', 'num_classes': 100, 'width': 16}
  return tiny.merged(base, changes)


def losses(workdir):
  lines = (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()
  return [row['loss'] for row in map(json.loads, lines) if 'loss' in row]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
  monkeypatch.setattr(latents, 'SHARD', 8)
  monkeypatch.setattr(cache, '_BATCH', 8)


def test_losses_are_those_of_the_images(tmp_path):
  """Posterior noise, flips, order and dropped conditions are the same."""
  folder = tmp_path / 'latents'
  assert train.train(config(), tmp_path / 'images') == 0
  assert train.train(config(folder), tmp_path / 'cached') == 0
  assert len(list(folder.glob('*.array_record'))) == 3
  expected = losses(tmp_path / 'images')
  assert len(expected) == 6
  np.testing.assert_allclose(losses(tmp_path / 'cached'), expected, rtol=1e-5)


def opened(folder, **changes):
  run = runs.open_run(build.parts(config(folder, **changes)))
  params = build.init_first_stage(run.parts, jax.random.key(0))
  return run, params


def test_what_was_encoded_is_not_encoded_again(tmp_path):
  folder, said = tmp_path / 'latents', []
  run, params = opened(folder)
  source = cache.open_cache(run.parts, run.source, params, said.append)
  assert said == [8, 16, 20] and len(source) == 20
  before = [source[i]['latent'] for i in range(20)]
  first, second, _ = sorted(folder.glob('*.array_record'))
  times = first.stat().st_mtime_ns
  second.rename(f'{second}.partial')  # As an interrupted run leaves it.
  said.clear()
  source = cache.open_cache(run.parts, run.source, params, said.append)
  assert said == [16] and first.stat().st_mtime_ns == times
  np.testing.assert_array_equal(
    [source[i]['latent'] for i in range(20)], before
  )


def test_another_first_stage_or_other_data_are_refused(tmp_path):
  folder = tmp_path / 'latents'
  run, params = opened(folder)
  cache.open_cache(run.parts, run.source, params)
  other = jax.tree.map(lambda x: x + 1e-3, params)
  with pytest.raises(UserError, match='something else: first_stage differ'):
    cache.open_cache(run.parts, run.source, other)
  run, params = opened(folder, data={'max_objects': 2})
  with pytest.raises(UserError, match='something else: data differ'):
    cache.open_cache(run.parts, run.source, params)


def test_a_random_crop_and_tasks_that_look_at_images_are_refused(tmp_path):
  run, params = opened(tmp_path, data={'crop': 'random'})
  with pytest.raises(UserError, match="data.crop='random' draws another crop"):
    cache.open_cache(run.parts, run.source, params)
  wrong = config(tmp_path) | {'task': {'name': 'super_resolution'}}
  with pytest.raises(UserError, match="'super_resolution' needs the images"):
    build.parts(wrong)
  with pytest.raises(UserError, match="stage='first_stage' trains on images"):
    build.parts(tiny.first_stage(latent_cache='x'))
