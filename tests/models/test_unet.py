"""Tests for ldm_jax.models.unet."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.unet import UNet
from ldm_jax.nn import conv
from ldm_jax.types import Conditioning, UserError

TINY = dict(
  out_channels=3, channels=8, multipliers=(1, 2), attention_levels=(1,),
  num_res_blocks=1, num_heads=2, norm_groups=4,
)  # fmt: skip
Z = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
T = jnp.array([3, 700])
CONTEXT = jax.random.normal(jax.random.key(1), (2, 5, 6))
CROSS = Conditioning(context=CONTEXT)


def params_of(model, z=Z, cond=CROSS):
  """Random ones; drawn by numpy, as compiling an `init` takes much longer."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), z, T, cond)
  draw = lambda s: (
    rng.normal(size=s.shape) / max(np.prod(s.shape[:-1]), 9) ** 0.5
  )
  return jax.tree.map(lambda s: draw(s).astype(np.float32), shapes)


SELF = UNet(**(TINY | dict(multipliers=(1,), attention_levels=())))
CROSS_UNET = UNet(**TINY, attention='cross')


@functools.cache
def compiled(model):
  return jax.jit(model.apply)


def run(model, params, z=Z, t=T, cond=CROSS):
  return compiled(model)(params, z, t, cond)


@pytest.mark.parametrize('settings', [
  dict(), dict(attention='cross'), dict(resblock_updown=True),
])  # fmt: skip
def test_a_fresh_network_predicts_nothing_and_its_blocks_add_nothing(settings):
  model = UNet(**(TINY | settings))

  def last_layers():
    params = model.init(jax.random.key(0), Z, T, CROSS)['params']
    flat = flax.traverse_util.flatten_dict(params)
    names = ('conv_out', 'conv2', 'proj_out')
    return {
      path: x
      for path, x in flat.items()
      if path[-2] in names and 'feed_forward' not in path
    }

  # Only these are compiled: of nothing else does the result depend.
  layers = jax.jit(last_layers)()
  assert len(layers) > 20
  assert not any(np.any(x) for x in layers.values())


def test_the_prediction_depends_on_everything_it_is_told():
  model, params = CROSS_UNET, params_of(CROSS_UNET)
  y = run(model, params)
  other = Conditioning(context=CONTEXT.at[0].add(jnp.arange(6.0)))
  changes = {
    'z': run(model, params, z=Z.at[0, 0, 0].add(1)),
    't': run(model, params, t=T.at[0].add(1)),
    'context': run(model, params, cond=other),
  }
  for name, changed in changes.items():
    assert np.abs(changed - y)[0].max() > 1e-4, name
    # And an example on nothing that another is told.
    np.testing.assert_allclose(changed[1], y[1], atol=1e-5, err_msg=name)


def test_concatenated_channels_are_more_input():
  params = params_of(SELF)
  joined = Conditioning(concat=Z[..., 1:])
  np.testing.assert_array_equal(
    run(SELF, params, cond=Conditioning()),
    run(SELF, params, Z[..., :1], cond=joined),
  )


def test_a_vector_joins_the_time_embedding():
  told = lambda vector: Conditioning(vector=jnp.full((2, 7), vector))
  params = params_of(SELF, cond=told(0.0))
  answer = lambda vector: run(SELF, params, cond=told(vector))
  assert np.abs(answer(1.0) - answer(0.0)).max() > 1e-4
  assert 'vector' not in params_of(SELF)['params']


def test_remat_changes_nothing():
  params = params_of(SELF)

  def loss(model, params):
    return jnp.mean(jnp.sin(model.apply(params, Z, T, Conditioning(), True)))

  plain, remat = (
    jax.jit(jax.value_and_grad(functools.partial(loss, model)))(params)
    for model in (SELF, SELF.clone(remat=True))
  )
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, plain, remat)


def test_remat_keeps_less():
  """On CPUs, too, whose compiler drops JAX's barriers unless told not to."""
  deep, z = SELF.clone(num_res_blocks=4), jnp.ones((4, 32, 32, 3))
  params = params_of(deep)

  def temporary(model):
    loss = lambda params: jnp.sum(
      model.apply(params, z, jnp.zeros(4), Conditioning(), True)
    )
    program = conv.jit(jax.grad(loss)).lower(params).compile()
    return program.memory_analysis().temp_size_in_bytes

  assert temporary(deep.clone(remat=True)) < 0.8 * temporary(deep)


def test_any_resolution_that_halves():
  """Convolutions and attention know no size."""
  model = UNet(**TINY)
  params = params_of(model)
  for shape in ((2, 4, 12, 3), (2, 6, 2, 3)):
    z = jax.ShapeDtypeStruct(shape, jnp.float32)
    y = jax.eval_shape(model.apply, params, z, T, Conditioning())
    assert y.shape == shape


def test_bfloat16_is_for_activations_alone():
  params = params_of(SELF)
  half = SELF.clone(dtype=jnp.bfloat16)
  shapes = jax.eval_shape(half.init, jax.random.key(0), Z, T, CROSS)
  assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}
  y, rough = run(SELF, params), run(half, params)
  assert rough.dtype == jnp.float32
  assert 0 < np.abs(rough - y).max() < 0.1 * np.std(y)


def test_dropout_is_for_training():
  model = SELF.clone(dropout=0.5)
  params = params_of(model)

  @jax.jit
  def training(seed):
    rngs = {'dropout': jax.random.key(seed)}
    return model.apply(params, Z, T, Conditioning(), True, rngs=rngs)

  assert np.abs(training(0) - training(1)).max() > 1e-3
  np.testing.assert_allclose(
    run(model, params, cond=Conditioning()),
    run(SELF, params, cond=Conditioning()),
    atol=1e-5,
  )


def test_levels_without_attention_have_no_heads():
  settings = dict(attention_levels=(1,), num_heads=None, head_width=16)
  UNet(**(TINY | settings)).check()


@pytest.mark.parametrize(
  ('settings', 'named'),
  [
    (dict(head_width=4), 'exactly one of head_width and num_heads'),
    (dict(num_heads=None), 'exactly one of head_width and num_heads'),
    (dict(attention='spatial'), "attention='spatial'"),
    (dict(norm_groups=3), 'norm_groups=3'),
    (dict(num_heads=3), r'heads \(3\)'),
    (dict(attention_levels=(0, 2)), 'names level 2'),
  ],
)
def test_impossible_settings_are_named(settings, named):
  with pytest.raises(UserError, match=named):
    UNet(**(TINY | settings)).check()
