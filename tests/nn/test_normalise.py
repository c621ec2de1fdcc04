"""Group normalisation against its definition, and its gradient too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn.normalise import group_norm


def defined(x, scale, bias, groups, epsilon):
  """Wu & He 2018, Eq. 1 to 3, as printed."""
  x = x.astype(jnp.float32)
  grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
  mean = grouped.mean((1, 3), keepdims=True)
  var = jnp.square(grouped - mean).mean((1, 3), keepdims=True)
  y = (grouped - mean) / jnp.sqrt(var + epsilon)
  return y.reshape(x.shape) * scale + bias


def given(shape, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  draw = lambda *size: rng.standard_normal(size, np.float32)
  x = (3 * draw(*shape) + 1).astype(dtype)
  return x, 1 + draw(shape[-1]), draw(shape[-1]), draw(*shape)


@pytest.mark.parametrize('groups', [1, 4, 12])
@pytest.mark.parametrize('shape', [(3, 5, 12), (2, 4, 6, 12)])
def test_value_and_gradients_are_those_of_the_definition(shape, groups):
  check(shape, groups)


def test_vectors_are_normalised_too():
  check((2, 12), 4)


def check(shape, groups):
  *inputs, weight = given(shape)

  @functools.partial(jax.jit, static_argnums=0)
  def value_and_grads(norm, *inputs):
    loss = lambda *a: jnp.sum(weight * norm(*a, groups, 1e-5))
    return norm(*inputs, groups, 1e-5), jax.grad(loss, (0, 1, 2))(*inputs)

  found = value_and_grads(group_norm, *inputs)
  expected = value_and_grads(defined, *inputs)
  same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)
  jax.tree.map(same, found, expected)


def test_a_gradient_has_its_inputs_type_and_float32_inside():
  """An offset in which sums of bfloat16 would drown."""
  x, scale, bias, weight = given((2, 8, 8, 12))
  x = (x + 40).astype(jnp.bfloat16)
  loss = lambda norm: lambda x: jnp.sum(weight * norm(x, scale, bias, 4, 1e-5))
  found = jax.grad(loss(group_norm))(x)
  assert found.dtype == jnp.bfloat16
  expected = jax.grad(loss(defined))(x.astype(jnp.float32))
  np.testing.assert_allclose(
    found.astype(jnp.float32), expected, rtol=0.01, atol=1e-3
  )


def test_a_gradient_has_a_gradient():
  x, scale, bias, weight = given((1, 3, 3, 4))

  def slope(norm):
    inner = lambda x: jnp.sum(weight * norm(x, scale, bias, 2, 1e-5) ** 2)
    return jax.grad(lambda x: jnp.sum(jax.grad(inner)(x) ** 2))(x)

  np.testing.assert_allclose(
    slope(group_norm), slope(defined), rtol=1e-3, atol=1e-4
  )


def test_no_accelerator_rounds_what_statistics_are_summed_of():
  """By default TPUs multiply float32 in bfloat16, and NVIDIA's GPUs in TF32."""
  x, scale, bias, weight = given((2, 4, 4, 12))
  loss = lambda x: jnp.sum(weight * group_norm(x, scale, bias, 4, 1e-5))
  program = str(jax.make_jaxpr(jax.value_and_grad(loss))(x))
  dots = program.count('dot_general[')
  assert dots == 2
  assert program.count('Precision.HIGHEST, Precision.HIGHEST') == dots
