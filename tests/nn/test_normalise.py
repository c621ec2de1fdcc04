"""Both normalisations against their definitions, and their gradients too."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn import conv
from ldm_jax.nn.normalise import group_norm, layer_norm


def defined(x, scale, bias, groups, epsilon):
  """Wu & He 2018, Eq. 1 to 3, as printed."""
  x = x.astype(jnp.float32)
  grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
  mean = grouped.mean((1, 3), keepdims=True)
  var = jnp.square(grouped - mean).mean((1, 3), keepdims=True)
  y = (grouped - mean) / jnp.sqrt(var + epsilon)
  return y.reshape(x.shape) * scale + bias


def defined_by_layer(x, scale, bias, epsilon):
  """Ba et al. 2016, Eq. 4, with the epsilon that all implementations add."""
  x = x.astype(jnp.float32)
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / jnp.sqrt(var + epsilon) * scale + bias


of_groups = lambda norm, groups: lambda *x: norm(*x, groups, 1e-5)
of_layers = lambda norm: lambda *x: norm(*x, 1e-5)


def given(shape, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  draw = lambda *size: rng.standard_normal(size, np.float32)
  x = (3 * draw(*shape) + 1).astype(dtype)
  return x, 1 + draw(shape[-1]), draw(shape[-1]), draw(*shape)


@pytest.mark.parametrize('groups', [1, 4, 12])
@pytest.mark.parametrize('shape', [(3, 5, 12), (2, 4, 6, 12)])
def test_value_and_gradients_are_those_of_the_definition(shape, groups):
  check(of_groups(group_norm, groups), of_groups(defined, groups), shape)


def test_vectors_are_normalised_too():
  check(of_groups(group_norm, 4), of_groups(defined, 4), (2, 12))


@pytest.mark.parametrize('shape', [(12,), (7, 12), (3, 5, 12), (2, 4, 6, 12)])
def test_a_layer_norm_is_its_definition(shape):
  check(of_layers(layer_norm), of_layers(defined_by_layer), shape)


def check(norm, definition, shape):
  *inputs, weight = given(shape)

  @functools.partial(jax.jit, static_argnums=0)
  def value_and_grads(norm, *inputs):
    loss = lambda *a: jnp.sum(weight * norm(*a))
    return norm(*inputs), jax.grad(loss, (0, 1, 2))(*inputs)

  found = value_and_grads(norm, *inputs)
  expected = value_and_grads(definition, *inputs)
  same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)
  jax.tree.map(same, found, expected)


PAIRS = pytest.mark.parametrize(
  'norm, definition',
  [
    (of_groups(group_norm, 4), of_groups(defined, 4)),
    (of_layers(layer_norm), of_layers(defined_by_layer)),
  ],
  ids=['group', 'layer'],
)


@PAIRS
def test_a_gradient_has_its_inputs_type_and_float32_inside(norm, definition):
  """An offset in which sums of bfloat16 would drown."""
  x, scale, bias, weight = given((2, 8, 8, 12))
  x = (x + 40).astype(jnp.bfloat16)
  loss = lambda norm: lambda x: jnp.sum(weight * norm(x, scale, bias))
  found = jax.grad(loss(norm))(x)
  assert found.dtype == jnp.bfloat16
  expected = jax.grad(loss(definition))(x.astype(jnp.float32))
  np.testing.assert_allclose(
    found.astype(jnp.float32), expected, rtol=0.01, atol=1e-3
  )


@PAIRS
def test_a_gradient_has_a_gradient(norm, definition):
  x, scale, bias, weight = given((1, 3, 3, 12))

  def slope(norm):
    inner = lambda x: jnp.sum(weight * norm(x, scale, bias) ** 2)
    return jax.grad(lambda x: jnp.sum(jax.grad(inner)(x) ** 2))(x)

  np.testing.assert_allclose(
    slope(norm), slope(definition), rtol=1e-3, atol=1e-4
  )


@pytest.mark.parametrize(
  'norm, dots',
  [(of_groups(group_norm, 4), 2), (of_layers(layer_norm), 3)],
  ids=['group', 'layer'],
)
def test_no_accelerator_rounds_what_statistics_are_summed_of(norm, dots):
  """By default TPUs multiply float32 in bfloat16, and NVIDIA's GPUs in TF32."""
  x, scale, bias, weight = given((2, 4, 4, 12))
  loss = lambda *inputs: jnp.sum(weight * norm(*inputs))
  differentiated = jax.value_and_grad(loss, (0, 1, 2))
  program = str(jax.make_jaxpr(differentiated)(x, scale, bias))
  assert program.count('dot_general[') == dots
  assert program.count('Precision.HIGHEST, Precision.HIGHEST') == dots


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='of CPUs')
def test_a_dense_layer_is_no_part_of_the_norm_before_it():
  """Of large arrays YNNPACK, which sums, would multiply too, and slower."""

  def both(x, scale, bias, kernel):
    y = layer_norm(x, scale, bias, 1e-5)
    return y.reshape(-1, x.shape[-1]) @ kernel

  shapes = (4, 4096, 320), (320,), (320,), (320, 640)
  args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  compiled = conv.jit(both).lower(*args).compile().as_text()
  entry = compiled[compiled.index('ENTRY ') :]
  assert re.search(r'f32\[16384,640\]\S* dot\(', entry)
