"""A first stage in tiles is the first stage."""

import jax
import numpy as np
import pytest

from ldm_jax.first_stage import autoencoder, tiles
from ldm_jax.types import UserError

FIELDS = dict(
  z_channels=3,
  embed_dim=3,
  channels=8,
  multipliers=(1, 1, 2),
  num_res_blocks=1,
  norm_groups=4,
)


def random_params(stage, side=16):
  """Weights with something to say: norms too have scales and offsets."""
  shapes = jax.eval_shape(
    stage.init, jax.random.key(0), np.zeros((1, side, side, 3), np.float32)
  )['params']
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    values = rng.standard_normal(leaf.shape).astype(np.float32)
    if leaf.ndim == 4:
      return values / np.sqrt(np.prod(leaf.shape[:3]))
    is_scale = path[-1].key == 'scale'
    return values / 4 + is_scale

  return jax.tree_util.tree_map_with_path(draw, shapes)


STAGES = {
  'kl': autoencoder.AutoencoderKL(**FIELDS),
  'vq': autoencoder.AutoencoderVQ(**FIELDS, num_codes=16),
  'kl, attention at level 1': autoencoder.AutoencoderKL(
    **FIELDS, attention_levels=(1,)
  ),
}


def image_of(height, width):
  """Dark here and bright there, so that statistics differ between tiles."""
  rng = np.random.default_rng(1)
  image = rng.uniform(-1, 1, (1, height, width, 3)).astype(np.float32)
  image *= np.linspace(0.1, 1, width)[:, None]
  return image + np.linspace(-0.5, 0.5, height)[:, None, None]


@pytest.mark.parametrize('name', STAGES)
def test_tiles_are_the_whole(name):
  stage = STAGES[name]
  params = random_params(stage)
  tiled = tiles.Tiles(stage, 44)
  image = image_of(80, 92).astype(np.float32)
  z = stage.apply({'params': params}, image, method='encode')
  found = tiled.encode(params, image)
  assert np.abs(found - z).max() < 2e-3 * np.abs(z).max()
  # Of random weights, images go far beyond [-1, 1]: shares of what is there.
  z = np.asarray(z)
  x = np.asarray(stage.apply({'params': params}, z, method='decode'))
  found = tiled.decode(params, z)
  assert found.shape == x.shape
  assert np.abs(found - x).max() < 1e-3 * np.ptp(x)


def test_statistics_and_sight_are_what_makes_tiles_seamless(monkeypatch):
  stage = STAGES['kl']
  params = random_params(stage)
  z = image_of(24, 24)
  x = np.asarray(stage.apply({'params': params}, z, method='decode'))
  error = lambda found: np.abs(found - x).max() / np.ptp(x)
  monkeypatch.setattr(tiles, 'settled', lambda *_: True)
  two_passes = error(tiles.Tiles(stage, 44).decode(params, z))
  monkeypatch.undo()
  assert two_passes > 1e-3


def test_places_own_every_cell_once_and_see_their_halo():
  sides = [(5, 9, 2), (10, 9, 2), (37, 9, 2), (9, 9, 4), (8, 9, 4)]
  for length, tile, halo in sides:
    found = tiles.along(length, min(tile, length), halo)
    owned = [c for p in found for c in range(p.first, p.last)]
    assert owned == list(range(length))
    for p in found:
      assert p.start == 0 or p.first - p.start >= halo
      assert p.end == length or p.end - p.last >= halo


def test_moments_of_parts_are_those_of_the_whole():
  x = np.random.default_rng(0).normal(3, 2, (2, 6, 4, 2, 5)).astype(np.float32)
  halves = []
  for side in (0, 1):
    weight = np.zeros((6, 4), np.float32)
    weight[:, 2 * side : 2 * side + 2] = 1
    halves.append({'a': tiles.moments(x, weight)})
  mean, var = tiles.pooled(halves)['a']
  np.testing.assert_allclose(mean, x.mean((1, 2, 4)), rtol=1e-5)
  np.testing.assert_allclose(var, x.var((1, 2, 4)), rtol=1e-4)


def test_a_tile_that_cannot_hold_its_halo_is_refused():
  with pytest.raises(UserError, match='tile=32: .* at least 36'):
    tiles.Tiles(STAGES['kl'], 32)
  with pytest.raises(UserError, match='multiple of 4'):
    tiles.Tiles(STAGES['kl'], 50)


def test_pixels_need_no_tiles():
  x = image_of(8, 8)
  tiled = tiles.Tiles(autoencoder.Identity(), 4)
  np.testing.assert_array_equal(tiled.decode({}, tiled.encode({}, x)), x)


def test_memory_of_a_tile_does_not_know_the_image():
  stage = STAGES['kl']
  params = random_params(stage)
  run = tiles._program(stage, 'decode_large', tiled=True)
  seen = []
  for side in (24, 48):
    h = np.zeros((1, side, side, 16), np.float32)
    places = list(tiles.places((side, side), (11, 11), 4))
    assert len(places) > side // 11
    rows, columns = (slice(p.start, p.end) for p in places[-1])
    lowered = run.lower(
      params, h[:, rows, columns], None, tiles.owned(places[-1])
    )
    seen.append(lowered.compile().memory_analysis().temp_size_in_bytes)
  assert seen[0] == seen[1]
