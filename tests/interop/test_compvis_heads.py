"""Heads that the release has not are a special case of those that it has."""

import jax
import numpy as np
import pytest

from ldm_jax.interop import compvis_heads
from ldm_jax.nn.transformer import TokenTransformer
from ldm_jax.types import UserError

SIZES = {'vocab_size': 20, 'length': 7, 'width': 24, 'depth': 2}


def encoder(heads: int, width: int):
  module = TokenTransformer(**SIZES, num_heads=heads, head_width=width)
  tokens = np.random.default_rng(0).integers(0, 20, (2, 7))
  shapes = jax.eval_shape(module.init, jax.random.key(0), tokens)['params']
  draw = np.random.default_rng(1).standard_normal
  params = jax.tree.map(lambda x: draw(x.shape, np.float32), shapes)
  return module, params, tokens


@pytest.mark.parametrize(('heads', 'width'), [(2, 16), (3, 8), (8, 20)])
def test_the_function_is_the_same(heads, width):
  module, params, tokens = encoder(heads, width)
  task = {'name': 'text', **SIZES, 'num_heads': heads, 'head_width': width}
  items = {'model': {'conditioner': {'transformer': params}, 'unet': {}}}
  config, wide = compvis_heads.widened({'task': task}, items)
  assert (config['task']['num_heads'], config['task']['head_width']) == (8, 64)
  other, shapes, _ = encoder(8, 64)
  wide = wide['model']['conditioner']['transformer']
  assert jax.tree.map(np.shape, wide) == jax.tree.map(np.shape, shapes)
  ours, theirs = (
    jax.jit(m.apply)({'params': p}, tokens)
    for m, p in ((module, params), (other, wide))
  )
  np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_the_releases_own_are_left_alone():
  for task in ({'name': 'text', 'width': 8}, {'name': 'class_label'}):
    items = {'model': {}}
    assert compvis_heads.widened({'task': task}, items) == (
      {'task': task}, items,
    )  # fmt: skip


@pytest.mark.parametrize(('heads', 'width'), [(9, 8), (1, 65)])
def test_what_does_not_fit_in_is_refused(heads, width):
  task = {'name': 'layout', 'num_heads': heads, 'head_width': width}
  with pytest.raises(UserError, match=f'{heads} of {width}'):
    compvis_heads.widened({'task': task}, {'model': {}})


def test_the_scale_of_masked_latents_stands_in_the_weights():
  config = {'task': {'name': 'inpainting'}, 'unet': {'out_channels': 2}}
  unet = {'conv_in': {'kernel': np.ones((3, 3, 5, 4), np.float32)}}
  items = {'model': {'unet': unet}, 'ema': unet, 'first_stage': {}}
  meta = {'scale_factor': 0.25}
  found, changed = compvis_heads.retold(config, items, meta)
  for tree in (changed['model']['unet'], changed['ema']):
    kernel = tree['conv_in']['kernel']
    assert (kernel[:, :, 2:4] == 0.25).all()
    assert (kernel[:, :, :2] == 1).all() and (kernel[:, :, 4:] == 1).all()
  assert found['task']['latent_scale'] == 4.0
  _, again = compvis_heads.retold(found, changed, meta)
  assert again['ema'] is changed['ema']
  # Beside a text it is scaled, and the config says in what order it comes.
  config['task'] = {'name': 'inpainting_text', 'latent_scale': 0.5}
  found, changed = compvis_heads.retold(config, items, meta)
  assert found['task']['latent_scale'] == 1.0
  assert not found['task']['mask_first']
  assert (changed['ema']['conv_in']['kernel'][:, :, 2:4] == 0.5).all()
