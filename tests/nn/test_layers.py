"""Tests for ldm_jax.nn.layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn import layers

X = jax.random.normal(jax.random.key(0), (2, 8, 8, 16))
TEMB = jax.random.normal(jax.random.key(1), (2, 24))


def delta(size=3):
  """A kernel that copies the pixel under its centre."""
  kernel = np.zeros((size, size, 16, 16), np.float32)
  kernel[size // 2, size // 2] = np.eye(16)
  return {'params': {'kernel': kernel, 'bias': np.zeros(16)}}


def test_a_strided_convolution_starts_on_the_first_pixel():
  """Padding is symmetric, as PyTorch's; 'SAME' would start on the second."""
  y = layers.Conv(16, stride=2).apply(delta(), X)
  np.testing.assert_array_equal(y, X[:, ::2, ::2])


def test_padding_right_and_bottom_starts_on_the_second():
  padded = layers.Downsample(((0, 1), (0, 1)))
  y = padded.apply({'params': {'conv': delta()['params']}}, X)
  np.testing.assert_array_equal(y, X[:, 1::2, 1::2])


def test_a_dense_layer_is_flax_s_gradients_too():
  def value_and_gradients(dense):
    layer = dense(5, bias_init=jax.nn.initializers.normal(1.0))
    params = layer.init(jax.random.key(2), X)
    y, vjp = jax.vjp(layer.apply, params, X)
    return y, vjp(jnp.cos(y))

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    value_and_gradients(layers.Dense),
    value_and_gradients(nn.Dense),
  )


@pytest.mark.parametrize('size', [1, 3, 5])
def test_odd_kernels_keep_the_size(size):
  y = layers.Conv(16, size).apply(delta(size), X)
  np.testing.assert_array_equal(y, X)


def test_up_and_down():
  up = layers.upsample_nearest(X)
  for i in (0, 1):
    for j in (0, 1):
      np.testing.assert_array_equal(up[:, i::2, j::2], X)
  _, vjp = jax.vjp(layers.upsample_nearest, X)
  np.testing.assert_allclose(vjp(up)[0], 4 * X, rtol=1e-6)
  np.testing.assert_allclose(layers.average_pool(up), X, rtol=1e-6)
  pooled = layers.average_pool(X)
  np.testing.assert_allclose(
    pooled[:, 1, 2], X[:, 2:4, 4:6].mean((1, 2)), atol=1e-6
  )


def test_upsample_is_nearest_and_then_a_convolution():
  y = layers.Upsample().apply({'params': {'conv': delta()['params']}}, X)
  np.testing.assert_array_equal(y, layers.upsample_nearest(X))


@pytest.mark.parametrize('groups', [1, 4, 16])
def test_every_group_is_normalised(groups):
  norm = layers.GroupNorm(groups)
  y, _ = norm.init_with_output(jax.random.key(0), 5 * X + 100)
  grouped = y.reshape(2, 64, groups, -1)
  np.testing.assert_allclose(grouped.mean((1, 3)), 0, atol=1e-4)
  np.testing.assert_allclose(grouped.std((1, 3)), 1, atol=1e-4)


def test_statistics_are_float32_for_bfloat16_activations():
  """An offset that bfloat16 sums would drown in."""
  x = (X + 40).astype(jnp.bfloat16)
  norm = layers.GroupNorm(4, dtype=jnp.bfloat16)
  y, _ = norm.init_with_output(jax.random.key(0), x)
  exact, _ = layers.GroupNorm(4).init_with_output(jax.random.key(0), x)
  assert y.dtype == jnp.bfloat16 and exact.dtype == jnp.float32
  np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=0.01)
  np.testing.assert_allclose(exact.std(), 1, atol=1e-3)


def test_groups_must_divide_the_channels():
  with pytest.raises(ValueError, match='16 channels .* 5 groups'):
    layers.GroupNorm(5).init(jax.random.key(0), X)


def res_block(**settings):
  settings = dict(channels=16, norm_groups=4) | settings
  block = layers.ResBlock(**settings)
  return block, block.init(jax.random.key(2), X, TEMB, False)


@pytest.mark.parametrize(
  ('resample', 'expected'),
  [
    (None, X),
    ('up', layers.upsample_nearest(X)),
    ('down', layers.average_pool(X)),
  ],
)
@pytest.mark.parametrize('scale_shift', [False, True])
def test_a_fresh_block_only_resamples(resample, expected, scale_shift):
  block, params = res_block(resample=resample, scale_shift=scale_shift)
  np.testing.assert_allclose(
    block.apply(params, X, TEMB, False), expected, atol=1e-6
  )


def randomised(params, seed=3):
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return jax.tree.unflatten(
    tree,
    [x + 0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)],
  )


def test_scale_comes_first_and_shift_second():
  """With a scale of -1 the image is gone: only the shift is left."""
  block, params = res_block(scale_shift=True)
  params = randomised(params)
  temb = params['params']['temb']
  temb['kernel'] = jnp.zeros_like(temb['kernel'])
  temb['bias'] = jnp.concatenate([-jnp.ones(16), jnp.full(16, 0.7)])
  added = block.apply(params, X, TEMB, False) - X
  conv = layers.Conv(16).bind({'params': params['params']['conv2']})
  expected = conv(jnp.full_like(X, jax.nn.silu(0.7)))
  np.testing.assert_allclose(added, expected, atol=1e-5)


def test_the_time_shifts_what_the_second_norm_sees():
  """An equal shift of a whole group is normalised away; others are not."""
  block, params = res_block(norm_groups=4)
  params = randomised(params)
  out = lambda bias: block.apply(
    {'params': {**params['params'], 'temb': {'kernel': jnp.zeros((24, 16)),
                                             'bias': bias}}},
    X, TEMB, False,
  )  # fmt: skip
  zero = out(jnp.zeros(16))
  by_group = out(jnp.repeat(jnp.array([0.0, 1.0, -2.0, 3.0]), 4))
  np.testing.assert_allclose(by_group, zero, atol=1e-4)
  assert np.abs(out(jnp.arange(16.0)) - zero).max() > 0.1


def test_a_new_width_gets_a_convolution_on_the_skip():
  block, params = res_block(channels=32)
  assert params['params']['skip']['kernel'].shape == (1, 1, 16, 32)
  assert block.apply(params, X, TEMB, False).shape == (2, 8, 8, 32)
  assert 'skip' not in res_block()[1]['params']


def test_dropout_is_for_training():
  block, params = res_block(dropout=0.5)
  params = randomised(params)
  run = lambda train, seed: block.apply(
    params, X, TEMB, train, rngs={'dropout': jax.random.key(seed)}
  )
  np.testing.assert_array_equal(run(False, 0), run(False, 1))
  assert np.abs(run(True, 0) - run(True, 1)).max() > 0.1
