"""A latent cache trains as the images do, is filled once, and is nobody's."""

import jax
import numpy as np
import pytest

import train
from ldm_jax import build, latent_cache
from ldm_jax import run as runs
from ldm_jax.data import latents
from ldm_jax.types import UserError
from tests import tiny
from tests.chaos import small
from tests.coordinator import Coordinator, join


def config(folder='', **changes):
  base = small.diffusion(
    batch_size=4,
    scale_factor=1.0,
    null_prob=0.5,
    latent_cache=str(folder),
    first_stage_from='random',
  )
  base['first_stage'] = small.first_stage()['first_stage']
  base['unet']['out_channels'] = 2
  base['task'] = {'name': 'class_label', 'num_classes': 100, 'width': 8}
  base['unet'] |= {'attention': 'cross'}
  return tiny.merged(base, changes)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
  monkeypatch.setattr(latents, 'SHARD', 8)
  monkeypatch.setattr(latent_cache, '_BATCH', 8)


def losses(folder, count=6):
  run = runs.open_run(build.parts(config(folder)))
  state, held, meta = runs.begin(run)
  runs.use_cache(run, held, lambda done: None)
  stream = run.stream(meta['next_example'])
  found = []
  for _ in range(count):
    _, batch = run.to_device(next(stream))
    state, scalars = run.step(state, held, batch, run.rng)
    found.append(float(scalars['loss']))
  stream.close()
  return found


def test_losses_are_those_of_the_images(tmp_path):
  """Posterior noise, flips, order and dropped conditions are the same."""
  expected = losses('')
  np.testing.assert_allclose(losses(tmp_path), expected, rtol=1e-5)
  assert len(list(tmp_path.glob('*.array_record'))) == 3


def opened(folder, **changes):
  run = runs.open_run(build.parts(config(folder, **changes)))
  params = build.init_first_stage(run.parts, jax.random.key(0))
  return run, params


def test_what_was_encoded_is_not_encoded_again(tmp_path):
  folder, said = tmp_path / 'latents', []
  run, params = opened(folder)
  source = latent_cache.open_cache(run.parts, run.source, params, said.append)
  assert said == [8, 16, 20] and len(source) == 20
  before = [source[i]['latent'] for i in range(20)]
  first, second, _ = sorted(folder.glob('*.array_record'))
  times = first.stat().st_mtime_ns
  second.rename(f'{second}.partial')  # As an interrupted run leaves it.
  said.clear()
  source = latent_cache.open_cache(run.parts, run.source, params, said.append)
  assert said == [16] and first.stat().st_mtime_ns == times
  np.testing.assert_array_equal(
    [source[i]['latent'] for i in range(20)], before
  )


def test_each_process_has_its_shards_whatever_it_sees(tmp_path, monkeypatch):
  """Dealt by what is missing, shard 1 would be nobody's here."""
  run, params = opened(tmp_path)
  synced, said = [], []
  sync = latent_cache.multihost_utils
  monkeypatch.setattr(sync, 'sync_global_devices', synced.append)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  coordinator = Coordinator(told={})
  for rank, theirs in ((0, [8, 20]), (1, [16])):
    join(monkeypatch, coordinator, rank)
    monkeypatch.setattr(jax, 'process_index', lambda rank=rank: rank)
    found = latent_cache.open_cache(
      run.parts, run.source, params, said.append, lambda number: number == 1
    )
    assert found is None and said == theirs
    said.clear()
  assert len(synced) == 4  # As often in both, though one has fewer shards.
  assert len(list(tmp_path.glob('*.array_record'))) == 3


def test_told_to_stop_it_leaves_between_shards(tmp_path, monkeypatch, capsys):
  folder = tmp_path / 'latents'
  monkeypatch.setattr(train.Preemption, 'requested', lambda self, step: True)
  code = train.train(config(folder), str(tmp_path / 'run'))
  assert code == train.EXIT_CODE
  assert 'Told to stop: before the first step' in capsys.readouterr().out
  assert len(list(folder.glob('*.array_record'))) == 1


def test_another_first_stage_or_other_data_are_refused(tmp_path):
  folder = tmp_path / 'latents'
  run, params = opened(folder)
  latent_cache.open_cache(run.parts, run.source, params)
  other = jax.tree.map(lambda x: x + 1e-3, params)
  with pytest.raises(UserError, match='something else: first_stage differ'):
    latent_cache.open_cache(run.parts, run.source, other)
  half, _ = opened(folder, dtype='bfloat16')  # The same weights.
  with pytest.raises(UserError, match='something else: first_stage differ'):
    latent_cache.open_cache(half.parts, run.source, params)
  lean, _ = opened(folder, first_stage={'remat': True})  # And this one is.
  latent_cache.open_cache(lean.parts, run.source, params)
  run, params = opened(folder, data={'max_objects': 2})
  with pytest.raises(UserError, match='something else: data differ'):
    latent_cache.open_cache(run.parts, run.source, params)


def test_a_random_crop_and_tasks_that_look_at_images_are_refused(tmp_path):
  with pytest.raises(UserError, match="data.crop='random' draws another crop"):
    opened(tmp_path, data={'crop': 'random'})
  wrong = config(tmp_path) | {'task': {'name': 'super_resolution'}}
  with pytest.raises(UserError, match="'super_resolution' needs the images"):
    build.parts(wrong)
  with pytest.raises(UserError, match="stage='first_stage' trains on images"):
    build.parts(tiny.first_stage(latent_cache='x'))
