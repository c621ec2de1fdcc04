"""Tests for ldm_jax.interop.diffusers_names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.first_stage.autoencoder import AutoencoderKL, AutoencoderVQ
from ldm_jax.interop import diffusers_names, names
from ldm_jax.models.unet import UNet
from ldm_jax.nn.attention import AttentionBlock, attend, merge_heads
from ldm_jax.tasks.text import Text
from ldm_jax.types import Conditioning
from tests.interop import folders


def assert_complete(rows, item, shapes):
  """The table has every parameter of a module once, and in its shape."""
  wanted = {
    f'{item}/{"/".join(key.key for key in path)}': x.shape
    for path, x in jax.tree_util.tree_leaves_with_path(shapes['params'])
  }
  assert {row.ours: row.our_shape for row in rows} == wanted
  assert len({row.theirs for row in rows}) == len(rows)


UNETS = {
  'cross': folders.UNET,
  'self': folders.PLAIN,
  'resamples in blocks': folders.PLAIN
  | dict(resblock_updown=True, scale_shift_norm=True),
  'deep': folders.UNET | dict(multipliers=(1, 2, 3, 3), num_res_blocks=2),
}


@pytest.mark.parametrize('name', UNETS)
def test_unet(name):
  section = UNETS[name]
  shapes = jax.eval_shape(
    UNet(**section).init,
    jax.random.key(0),
    jnp.zeros((1, 8, 8, 5)),
    jnp.zeros(1),
    Conditioning(context=jnp.zeros((1, 3, 6))),
  )
  rows = diffusers_names.unet(section, 5, 6)
  assert_complete(rows, 'model/unet', shapes)


@pytest.mark.parametrize(
  ('section', 'kind'),
  [
    (folders.KL, AutoencoderKL),
    (folders.VQ, AutoencoderVQ),
    (folders.KL | dict(mid_attention=False, multipliers=(1, 1, 2)),
     AutoencoderKL),
  ],
)  # fmt: skip
def test_first_stage(section, kind):
  fields = {k: v for k, v in section.items() if k != 'name'}
  shapes = jax.eval_shape(
    kind(**fields).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))
  )
  assert_complete(diffusers_names.first_stage(section), 'first_stage', shapes)


def test_text():
  fields = {k: v for k, v in folders.TEXT.items() if k != 'name'}
  shapes = jax.eval_shape(
    lambda: Text(**fields).init(
      jax.random.key(0), {'tokens': jnp.zeros((1, 7), int)}, None, False
    )
  )
  rows = diffusers_names.text(folders.TEXT)
  assert_complete(rows, 'model/conditioner', shapes)


@pytest.mark.parametrize('settings', [dict(num_heads=3), dict(head_width=4)])
def test_q_k_v_are_fused_head_by_head(settings):
  """Three matrices and the formula of attention against our block."""
  rng = np.random.default_rng(0)
  c = 12
  name = 'mid_block.attentions.0'
  rows = [
    row
    for row in diffusers_names.unet(
      folders.PLAIN | dict(num_heads=None, head_width=None, channels=6)
      | settings, 3, 0,
    )
    if row.theirs.startswith(name)
  ]  # fmt: skip
  parts = [part for row in rows for part in diffusers_names.parts(row)]
  tensors = {p.theirs: rng.standard_normal(p.shape, np.float32) for p in parts}
  fused = diffusers_names.fuse(rows, tensors, settings)
  params = names.to_ours(rows, fused)['model']['unet']['mid_attn']

  x = rng.standard_normal((2, 3, 4, c)).astype(np.float32)
  heads = settings.get('num_heads') or c // settings['head_width']
  ours = AttentionBlock(heads, norm_groups=4).apply({'params': params}, x)

  at = lambda key: tensors[f'{name}.{key}']
  grouped = x.reshape(2, 12, 4, 3)
  mean = grouped.mean((1, 3), keepdims=True)
  y = (grouped - mean) / np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-5)
  y = y.reshape(2, 12, c) * at('group_norm.weight') + at('group_norm.bias')
  q, k, v = (
    (y @ at(f'to_{i}.weight').T + at(f'to_{i}.bias')).reshape(2, 12, heads, -1)
    for i in 'qkv'
  )
  y = merge_heads(attend(q, k, v))
  y = y @ at('to_out.0.weight').T + at('to_out.0.bias')
  np.testing.assert_allclose(ours, x + y.reshape(x.shape), atol=1e-4)

  back = diffusers_names.split(rows, fused, settings)
  folders.assert_same(back, tensors)


def test_older_names_and_shapes():
  rows = [
    row
    for row in diffusers_names.first_stage(folders.KL)
    if row.theirs.startswith('encoder.mid_block.attentions.0.')
  ]
  rng = np.random.default_rng(0)
  new = {row.theirs: rng.standard_normal(row.shape) for row in rows}
  old_names = {
    'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn',
  }  # fmt: skip
  old = {}
  for name, x in new.items():
    for today, before in old_names.items():
      name = name.replace(today, before)
    # Once these were convolutions.
    old[name] = x[:, :, None, None] if x.ndim == 2 else x
  assert not old.keys() & {n for n in new if 'to_' in n}
  folders.assert_same(diffusers_names.modernise(rows, old), new)


def test_a_matrix_may_come_where_a_convolution_is_expected():
  rows = diffusers_names.unet(folders.UNET, 4, 6)
  name = 'mid_block.attentions.0.proj_in.weight'
  [row] = [row for row in rows if row.theirs == name]
  matrix = np.arange(256.0).reshape(16, 16)
  found = diffusers_names.modernise(rows, {name: matrix})[name]
  assert found.shape == row.shape == (16, 16, 1, 1)
  np.testing.assert_array_equal(found[..., 0, 0], matrix)
  # What has another size is left for the comparison to name.
  wrong = np.zeros((16, 8))
  assert diffusers_names.modernise(rows, {name: wrong})[name].shape == (16, 8)
