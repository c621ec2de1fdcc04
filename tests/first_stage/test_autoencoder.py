"""Tests for ldm_jax.first_stage.autoencoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.first_stage import autoencoder
from ldm_jax.first_stage.autoencoder import (
  AutoencoderKL,
  AutoencoderVQ,
  Identity,
)
from ldm_jax.types import UserError


def tiny(kind=AutoencoderKL, **fields):
  fields = {
    'z_channels': 4,
    'embed_dim': 3,
    'channels': 8,
    'multipliers': (1, 2),
    'num_res_blocks': 1,
    'norm_groups': 4,
    **({'num_codes': 16} if kind is AutoencoderVQ else {}),
    **fields,
  }
  return kind(**fields)


def image(batch=2, side=16, seed=0):
  return jax.random.uniform(
    jax.random.key(seed), (batch, side, side, 3), minval=-1
  )


def randomised(model, seed=0):
  """Variables in which nothing is zero or one, made without compiling."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), image())
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    x = rng.standard_normal(leaf.shape, np.float32)
    if path[-1].key == 'kernel':
      return x / np.sqrt(np.prod(leaf.shape[:-1]))
    return 0.1 * x + (path[-1].key == 'scale')

  return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def jitted(model, method):
  return jax.jit(functools.partial(model.apply, method=method))


def apply(model, variables, method, *args):
  return jitted(model, method)(variables, *args)


@pytest.fixture(scope='module')
def kl():
  model = tiny()
  return model, randomised(model)


@pytest.fixture(scope='module')
def vq():
  model = tiny(AutoencoderVQ)
  return model, randomised(model)


@pytest.mark.parametrize('kind', [AutoencoderKL, AutoencoderVQ])
@pytest.mark.parametrize('levels', [1, 3, 6])
def test_latents_are_f_times_smaller(kind, levels):
  f = 2 ** (levels - 1)
  model = tiny(kind, multipliers=(1,) * levels, attention_levels=(levels - 1,))
  assert model.downsampling == f
  assert model.latent_channels == 3

  def through(rng):
    x = jnp.zeros((1, 2 * f, 3 * f, 3))
    variables = model.init(rng, x)
    z = model.apply(variables, x, method='encode')
    return z, model.apply(variables, z, method='decode')

  z, x = jax.eval_shape(through, jax.random.key(0))
  assert z.shape == (1, 2, 3, 3)
  assert x.shape == (1, 2 * f, 3 * f, 3)


def test_kl_gives_the_mode_or_a_sample_of_its_moments(kl):
  model, variables = kl
  x = image()
  mean, logvar = apply(model, variables, 'moments', x)
  np.testing.assert_allclose(
    apply(model, variables, 'encode', x), mean, atol=1e-6
  )
  rng = jax.random.key(2)
  noise = jax.random.normal(rng, mean.shape)
  np.testing.assert_allclose(
    apply(model, variables, 'encode', x, rng),
    mean + jnp.exp(logvar / 2) * noise,
    atol=1e-5,
  )


def test_log_variances_are_clamped(kl):
  model, variables = kl
  params = variables['params']
  for bias, expected in ((-100.0, -30.0), (100.0, 20.0)):
    quant_conv = {**params['quant_conv'], 'bias': np.full(6, bias, np.float32)}
    shifted = {'params': {**params, 'quant_conv': quant_conv}}
    _, logvar = apply(model, shifted, 'moments', image())
    np.testing.assert_array_equal(logvar, expected)


def test_a_key_per_image_makes_noise_independent_of_the_batch():
  mean, logvar = jnp.zeros((4, 2, 2, 3)), jnp.zeros((4, 2, 2, 3))
  keys = jax.random.split(jax.random.key(0), 4)
  whole = autoencoder.sample(mean, logvar, keys)
  part = autoencoder.sample(mean[2:], logvar[2:], keys[2:])
  np.testing.assert_array_equal(whole[2:], part)
  assert np.unique(whole).size == whole.size


def test_call_is_encode_then_decode(kl, vq):
  x = image()
  for model, variables in (kl, vq):
    z = apply(model, variables, 'encode', x)
    recon, aux = apply(model, variables, '__call__', x)
    np.testing.assert_allclose(aux['z'], z, atol=1e-6)
    np.testing.assert_allclose(
      apply(model, variables, 'decode', z), recon, atol=1e-4
    )


def test_vq_latents_are_not_quantised_and_its_decoder_quantises(vq):
  model, variables = vq
  x = image()
  table = variables['params']['quantize']['embedding']
  _, aux = apply(model, variables, '__call__', x)
  np.testing.assert_array_equal(aux['quantized'], table[aux['indices']])
  assert np.abs(aux['z'] - aux['quantized']).max() > 0.01
  # Codes are fixed points of the quantiser.
  decode = lambda z: apply(model, variables, 'decode', z)
  np.testing.assert_allclose(
    decode(aux['z']), decode(aux['quantized']), atol=1e-6
  )


def test_vq_encoder_learns_through_the_codebook(vq):
  model, variables = vq
  x = image()

  def loss(params):
    recon, _ = model.apply({'params': params}, x)
    return jnp.mean(jnp.square(recon - x))

  grads = jax.jit(jax.grad(loss))(variables['params'])
  assert np.abs(grads['encoder']['conv_in']['kernel']).max() > 0
  # The reconstruction says nothing to the codes; the codebook loss does.
  np.testing.assert_array_equal(grads['quantize']['embedding'], 0)


def test_remat_changes_memory_alone():
  x = image(1, 8)
  grads = []
  for remat in (False, True):
    model = tiny(
      remat=remat, dropout=0.1, multipliers=(1,), attention_levels=(0,)
    )
    variables = randomised(model)

    def loss(variables, model=model):
      recon, _ = model.apply(
        variables, x, train=True, rngs={'dropout': jax.random.key(1)}
      )
      return jnp.mean(jnp.square(recon))

    grads.append(jax.jit(jax.grad(loss))(variables))
  for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_bfloat16_keeps_parameters_and_outputs_in_float32(kl):
  _, variables = kl
  model = tiny(dtype=jnp.bfloat16)
  recon, aux = jax.eval_shape(model.apply, variables, image())
  dtypes = {x.dtype for x in jax.tree.leaves((recon, aux))}
  assert dtypes == {jnp.dtype(jnp.float32)}


def test_identity_is_the_identity():
  model, x = Identity(), image()
  assert model.init(jax.random.key(0), x) == {}
  run = lambda method, *args: model.apply({}, x, *args, method=method)
  np.testing.assert_array_equal(run('encode', jax.random.key(0)), x)
  np.testing.assert_array_equal(run('decode'), x)
  np.testing.assert_array_equal(model.apply({}, x)[0], x)
  assert (model.downsampling, model.latent_channels) == (1, 3)


@pytest.mark.parametrize(
  'fields, shape, message',
  [
    ({}, (1, 15, 16, 3), '15x16 cannot be encoded.*multiples of 2'),
    ({}, (1, 16, 16, 4), '4 channels.*takes 3'),
    ({'norm_groups': 3}, (1, 16, 16, 3), 'norm_groups=3.*8 channels'),
    ({'attention_levels': (2,)}, (1, 16, 16, 3), 'names level 2.*0 to 1'),
  ],
)
def test_what_cannot_be_is_said(fields, shape, message):
  model = tiny(**fields)
  with pytest.raises(UserError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
