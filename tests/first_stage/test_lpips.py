"""Tests for ldm_jax.first_stage.lpips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.first_stage import lpips
from ldm_jax.types import UserError


@pytest.fixture(scope='module')
def arrays():
  """Random files' content: torchvision's names, OIHW, and the heads'."""
  rng = np.random.default_rng(0)
  arrays, before = {}, 3
  for k, convs in enumerate(lpips.SLICES):
    for index, width in convs:
      std = (2 / (9 * before)) ** 0.5
      kernel = std * rng.standard_normal((width, before, 3, 3), np.float32)
      arrays[f'features.{index}.weight'] = kernel
      arrays[f'features.{index}.bias'] = np.zeros(width, np.float32)
      before = width
    head = rng.random((1, before, 1, 1), np.float32)
    arrays[f'lin{k}.model.1.weight'] = head
  return arrays


@pytest.fixture(scope='module')
def params(arrays):
  return lpips.params_from_arrays(arrays)


def same(a, b):
  return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.fixture(scope='module')
def distance(params):
  apply = jax.jit(lambda x, y: lpips.LPIPS().apply({'params': params}, x, y))
  rng = np.random.default_rng(1)
  x = np.clip(rng.standard_normal((2, 16, 16, 3)), -1, 1).astype(np.float32)
  return lambda amount: apply(x, x + amount)


def test_equal_images_have_no_distance_and_it_grows(distance):
  near, far = distance(0.1), distance(0.5)
  np.testing.assert_allclose(distance(0.0), 0, atol=1e-12)
  assert near.shape == (2,)
  assert (0 < near).all() and (near < far).all()


def test_dead_features_have_a_finite_gradient():
  h = jnp.zeros((1, 1, 1, 4))
  assert np.isfinite(jax.grad(lambda h: lpips._unit(h).sum())(h)).all()
  # The norm of what is alive is 1.
  np.testing.assert_allclose(np.square(lpips._unit(h + 3)).sum(), 1, rtol=1e-6)


def test_the_module_takes_exactly_what_the_files_hold(params):
  image = jnp.zeros((1, 16, 16, 3))
  shapes = jax.eval_shape(lpips.LPIPS().init, jax.random.key(0), image, image)
  assert jax.tree.map(np.shape, params) == jax.tree.map(
    lambda x: x.shape, shapes['params']
  )


def test_files_of_every_kind_say_the_same(arrays, params, tmp_path):
  from safetensors.numpy import save_file

  heads = {k: v for k, v in arrays.items() if k.startswith('lin')}
  features = {k: v for k, v in arrays.items() if k not in heads}
  np.savez(tmp_path / 'lpips.npz', **arrays)
  assert same(lpips.load(str(tmp_path / 'lpips.npz')), params)
  folder = tmp_path / 'folder'
  folder.mkdir()
  save_file(features, folder / 'vgg16.safetensors')
  (folder / 'vgg.pth').write_bytes(b'heads')
  (folder / 'README.md').write_text('Not weights.')
  assert same(lpips.load(str(folder), lambda path: heads), params)


def test_names_of_a_first_stage_checkpoint_are_read(arrays, params):
  slices = {i: k + 1 for k, s in enumerate(lpips.SLICES) for i, _ in s}
  inside = {'encoder.conv_in.weight': np.zeros(3)}
  for name, value in arrays.items():
    if name.startswith('features'):
      _, index, kind = name.split('.')
      name = f'net.slice{slices[int(index)]}.{index}.{kind}'
    inside[f'loss.perceptual_loss.{name}'] = value
  assert same(lpips.params_from_arrays(inside), params)


def test_no_files_is_an_error_that_names_them():
  with pytest.raises(UserError, match=r'vgg16-397923af.pth.*vgg.pth'):
    lpips.load(None)


def test_a_folder_without_them_is_an_error(tmp_path):
  with pytest.raises(UserError, match='holds none of vgg16'):
    lpips.load(str(tmp_path))
  with pytest.raises(UserError, match='nowhere'):
    lpips.load(str(tmp_path / 'nowhere'))


def test_missing_misshapen_and_broken_weights_are_all_named(arrays):
  broken = dict(arrays)
  del broken['features.5.bias']
  broken['lin3.model.1.weight'] = np.zeros((1, 7, 1, 1), np.float32)
  broken['features.0.bias'] = np.full(64, np.nan, np.float32)
  with pytest.raises(UserError) as error:
    lpips.params_from_arrays(broken)
  for what in (
    'features.5.bias is missing',
    r'lin3.model.1.weight is (1, 7, 1, 1)',
    'features.0.bias is not finite',
  ):
    assert what in str(error.value)


def test_a_damaged_file_is_named(tmp_path):
  for name in ('a.npz', 'b.safetensors'):
    (tmp_path / name).write_bytes(b'PK damaged')
    with pytest.raises(UserError, match=f'{name} cannot be read'):
      lpips.load(str(tmp_path / name))


def test_heads_of_version_0_0_are_refused(tmp_path):
  path = tmp_path / 'vgg.pth'
  path.write_bytes(b'0' * 7289)
  with pytest.raises(UserError, match='version 0.0 is faulty'):
    lpips.load(str(path), lambda path: {})


def test_a_torch_file_without_a_reader_is_an_error(tmp_path):
  path = tmp_path / 'vgg.pth'
  path.write_bytes(b'0')
  with pytest.raises(UserError, match='convert it'):
    lpips.load(str(path))
