"""Tests for ldm_jax.data.latents; what encodes them: tests/test_cache.py."""

import dataclasses
import pickle

import numpy as np
import pytest

from ldm_jax.data import latents, pipeline
from ldm_jax.data.examples import Transform
from ldm_jax.data.images import to_uint8
from ldm_jax.data.scenes import Scenes
from ldm_jax.data.spec import DataSpec
from ldm_jax.types import UserError

SPEC = DataSpec('scenes', 32, flip=True)
SHAPE = (2, 4, 4, 3)


class Source:
  def __len__(self):
    return 20


def cached(folder, monkeypatch):
  """20 examples; the value says which, and a half more which version."""
  monkeypatch.setattr(latents, 'SHARD', 8)
  about = latents.describe(Source(), SPEC, 'digest', SHAPE)
  latents.claim(str(folder), about)
  for path, indices in latents.shards(str(folder), 20):
    rows = [
      (
        {'label': np.int64(i), 'text': ['a', 'é'], 'example_id': np.int64(i)},
        np.stack([np.full(SHAPE[1:], i), np.full(SHAPE[1:], i + 0.5)]),
      )
      for i in indices
    ]
    latents.write_shard(path, rows)
  return latents.Latents(str(folder), about)


def test_versions_are_what_training_would_crop():
  spec = dataclasses.replace(SPEC, resize=48, upscale=True)
  source = Scenes(num_examples=3)
  _, found = latents.Versions(source, spec)(2)
  images_of = Transform(lambda example, rng: example, spec)
  seen = {
    to_uint8(images_of(source[2], np.random.default_rng(i))['image']).tobytes()
    for i in range(9)
  }
  assert seen == {version.tobytes() for version in found}
  about = [latents.describe(source, s, '', ()) for s in (SPEC, spec)]
  assert about[1]['data'] == about[0]['data'] | {'resize': 48, 'upscale': True}


def keep(example, rng):
  del rng
  return {'image': example['image'], 'label': example['label']}


def test_examples_are_found_by_their_index(tmp_path, monkeypatch):
  source = pickle.loads(pickle.dumps(cached(tmp_path, monkeypatch)))
  assert len(source) == 20
  for i in (19, 0, 7, 8):
    example = source[i]
    assert example['label'] == i and example['text'] == ['a', 'é']
    assert example['latent'].shape == SHAPE
    assert example['latent'].dtype == np.float32
    np.testing.assert_array_equal(example['latent'][1], i + 0.5)


def test_a_stream_takes_the_mirrored_version_half_of_the_time(
  tmp_path, monkeypatch
):
  source = cached(tmp_path, monkeypatch)
  stream = pipeline.train_stream(source, keep, SPEC, batch_size=20, seed=0)
  flips = []
  for _ in range(10):
    batch = next(stream)
    assert sorted(batch['label']) == list(range(20))
    np.testing.assert_array_equal(batch['example_id'], batch['label'])
    extra = batch['image'][:, 0, 0, 0] - batch['label']
    assert set(extra) <= {0.0, 0.5}
    flips += list(extra > 0)
  stream.close()
  assert 0.4 < np.mean(flips) < 0.6


def test_an_incomplete_cache_is_no_source(tmp_path, monkeypatch):
  source = cached(tmp_path, monkeypatch)
  path, _ = latents.shards(str(tmp_path), 20)[1]
  (tmp_path / path).unlink()
  with pytest.raises(UserError, match='00001-of-00003.*is not complete'):
    latents.Latents(str(tmp_path), source._about)
