"""conv2d is lax's convolution, gradients too, whatever formulation it picks."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ldm_jax.nn import conv, target

ONE = ((1, 1), (1, 1))
RIGHT = ((0, 1), (0, 1))
on_cpu = pytest.mark.skipif(
  jax.default_backend() != 'cpu', reason='the fast path is for CPUs'
)


def lax_conv(x, kernel, stride=1, padding=ONE):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def draw(x_shape, k, features, dtype=jnp.float32):
  x_rng, kernel_rng = jax.random.split(jax.random.key(0))
  x = jax.random.normal(x_rng, x_shape, dtype)
  kernel_shape = (k, k, x_shape[-1], features)
  return x, jax.random.normal(kernel_rng, kernel_shape, dtype) / 10


def value_and_gradients(conv2d, x, kernel, *args):
  """y, dx and dkernel for an output gradient that varies everywhere."""

  def run(x, kernel):
    y, vjp = jax.vjp(lambda x, kernel: conv2d(x, kernel, *args), x, kernel)
    return y, *vjp(jnp.sin(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))

  return jax.jit(run)(x, kernel)


def assert_same(one, other, rtol=1e-5):
  for a, b in zip(one, other, strict=True):
    assert a.dtype == b.dtype
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize(
  'shape, k, features, stride, padding',
  [
    ((1, 8, 8, 192), 3, 192, 1, ONE),
    ((3, 4, 8, 128), 3, 160, 1, ONE),
    ((1, 5, 9, 192), 3, 200, 1, ((0, 2), (2, 1))),
    ((3, 17, 16, 192), 3, 128, 1, ONE),
    ((1, 20, 19, 128), 3, 128, 1, ((0, 2), (2, 1))),
    ((1, 3, 3, 192), 3, 192, 1, ((0, 0), (0, 0))),
    ((1, 1, 1, 192), 3, 192, 1, ONE),
    ((1, 6, 6, 192), 5, 192, 1, ((2, 2), (2, 2))),
    ((1, 8, 8, 192), 3, 192, 2, RIGHT),
    ((1, 8, 8, 192), 1, 192, 1, ((0, 0), (0, 0))),
    ((5, 8, 8, 192), 3, 192, 1, ONE),
    ((2, 9, 8, 8), 3, 16, 2, ONE),
    ((2, 8, 8, 8), 3, 16, 2, RIGHT),
    ((1, 16, 16, 192), 3, 192, 1, ONE),
    ((3, 16, 18, 128), 3, 160, 1, ONE),
    ((1, 64, 64, 192), 3, 192, 1, ONE),
    ((3, 2, 4, 8), 3, 5, 1, ONE),
    ((2, 2, 2, 8), 3, 16, 2, RIGHT),
    ((2, 1, 1, 8), 3, 16, 2, ONE),
    ((2, 2, 3, 8), 4, 16, 1, ((1, 2), (2, 1))),
    ((2, 8, 9, 8), 4, 16, 2, ONE),
    ((2, 9, 8, 8), 1, 16, 2, ((0, 0), (0, 0))),
    ((2, 10, 11, 3), 3, 8, 3, RIGHT),
  ],
)
def test_equals_lax(shape, k, features, stride, padding):
  x, kernel = draw(shape, k, features)
  assert_same(
    value_and_gradients(conv.conv2d, x, kernel, stride, padding),
    value_and_gradients(lax_conv, x, kernel, stride, padding),
  )


def test_equals_lax_in_bfloat16():
  x, kernel = draw((1, 8, 8, 192), 3, 192, jnp.bfloat16)
  assert_same(
    value_and_gradients(conv.conv2d, x, kernel),
    value_and_gradients(lax_conv, x, kernel),
    rtol=2e-2,
  )


@pytest.mark.parametrize('batch', [2, 5])
def test_row_formulation_holds_for_any_batch(batch):
  x, kernel = draw((batch, 6, 7, 4), 3, 8)
  y, vjp = jax.vjp(lambda kernel: lax_conv(x, kernel), kernel)
  by_rows = conv._kernel_grad_by_rows(x, jnp.cos(y), 3, ONE)
  assert_same([by_rows], vjp(jnp.cos(y)))


@on_cpu
def test_which_formulation_a_shape_takes():
  jaxpr = lambda *args: str(jax.make_jaxpr(conv.conv2d)(*draw(*args)))
  assert '_conv_few_positions' in jaxpr((1, 16, 16, 192), 3, 192)
  assert '_conv_few_positions' in jaxpr((4, 8, 8, 192), 3, 192)
  assert '_conv_few_images' in jaxpr((1, 17, 16, 192), 3, 192)
  assert '_conv_few_images' in jaxpr((4, 17, 16, 192), 3, 192)
  assert 'conv3x3' in jaxpr((1, 16, 18, 192), 3, 192)
  assert '_conv_in_order' in jaxpr((5, 17, 16, 192), 3, 192)
  assert '_conv_in_order' in jaxpr((1, 8, 8, 192), 3, 16)
  assert '_conv_in_order' in jaxpr((1, 8, 8, 192), 1, 192)


def test_other_platforms_get_the_plain_convolution(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  x, kernel = draw((1, 8, 8, 192), 3, 192)
  # Forward mode is refused wherever the custom rule is.
  jax.jvp(conv.conv2d, (x, kernel), (x, kernel))


def test_remat_and_vmap_change_nothing():
  x, kernel = draw((3, 1, 6, 6, 192), 3, 192)
  loss = lambda conv2d: (
    lambda kernel: jnp.sum(jax.vmap(lambda x: conv2d(x, kernel))(x) ** 2)
  )
  expected = jax.grad(loss(lax_conv))(kernel)
  assert_same([jax.grad(loss(jax.remat(conv.conv2d)))(kernel)], [expected])


def test_second_derivative():
  x, kernel = draw((1, 4, 4, 192), 3, 192)

  def penalty(conv2d):
    slope = jax.grad(lambda kernel: jnp.sum(conv2d(x, kernel) ** 3))
    return jax.grad(lambda kernel: jnp.sum(slope(kernel) ** 2))(kernel)

  assert_same([penalty(conv.conv2d)], [penalty(lax_conv)], rtol=1e-4)


@pytest.mark.parametrize('batch', [1, 16])
def test_sharded_batch_or_kernel(batch):
  count = jax.device_count() if batch % jax.device_count() == 0 else 1
  mesh = jax.make_mesh((count,), ('data',), axis_types=(AxisType.Auto,))
  place = lambda a, *axes: jax.device_put(
    a, NamedSharding(mesh, PartitionSpec(*axes))
  )
  x, kernel = draw((batch, 8, 8, 192), 3, 192)
  assert_same(
    value_and_gradients(
      conv.conv2d, place(x, 'data'), place(kernel, None, None, None, 'data')
    ),
    value_and_gradients(lax_conv, x, kernel),
  )


@on_cpu
@pytest.mark.parametrize('stride', [1, 2])
def test_no_kernel_is_turned_for_an_image_smaller_than_it(stride):
  # XLA's way with these takes 10 to 40 times as long.
  given = draw((1, 2, 4, 16), 3, 16)
  turned = lambda conv2d: (
    'reverse'
    in jax.jit(functools.partial(conv2d, stride=stride, padding=ONE))
    .lower(*given)
    .compile()
    .as_text()
  )
  assert turned(lax_conv)
  assert not turned(conv.conv2d)


@on_cpu
@pytest.mark.parametrize(
  'shape, k, stride',
  [
    ((5, 8, 8, 16), 3, 1),
    ((5, 8, 8, 16), 3, 2),
    ((5, 8, 8, 16), 1, 1),
    ((2, 17, 16, 128), 3, 1),
  ],
)
def test_gradients_in_a_loop_are_in_eigen_s_order(shape, k, stride):
  # XLA's CPU compiler orders those of a program's entry only; any others are
  # computed by a naive loop, 10 to 118 times as slow (conv_gradients --looped).
  x, kernel = draw(shape, k, 128)
  padding = ONE if k > 1 else ((0, 0), (0, 0))

  def orders(conv2d):
    grad = jax.grad(lambda args: jnp.sum(conv2d(*args, stride, padding) ** 2))
    step = lambda args, _: (jax.tree.map(jnp.add, args, grad(args)), None)
    program = conv.jit(lambda args: jax.lax.scan(step, args, length=3)[0])
    text = program.lower((x, kernel)).compile().as_text()
    return set(re.findall(r'convolution\(.*dim_labels=(\S+?),? ', text))

  in_order = {'b01f_01io->b01f', 'b0f_0io->b0f'}
  assert not orders(lax_conv) <= in_order
  assert orders(conv.conv2d) <= in_order


@on_cpu
def test_which_images_take_winograd_s_way():
  def tile(x_shape, kernel_shape, dtype=jnp.float32, stride=1):
    x = jax.ShapeDtypeStruct(x_shape, dtype)
    return conv._winograd_tile(x, kernel_shape, stride, ((1, 1), (1, 1)))

  kernel = (3, 3, 192, 192)
  assert tile((1, 64, 64, 192), kernel) == 4
  assert tile((8, 32, 32, 192), kernel) == 4
  assert tile((1, 16, 16, 192), kernel) == 2
  assert tile((1, 34, 34, 192), kernel) == 2
  assert not tile((8, 14, 16, 192), kernel)
  assert not tile((1, 64, 65, 192), kernel)
  assert not tile((1, 64, 64, 192), kernel, stride=2)
  assert tile((1, 64, 64, 96), (3, 3, 96, 192)) == 4
  assert not tile((1, 64, 64, 64), (3, 3, 64, 192))
  assert tile((1, 512, 512, 128), (3, 3, 128, 128)) == 4
  assert not tile((1, 512, 514, 128), (3, 3, 128, 128))
  assert not tile((1, 64, 64, 192), kernel, jnp.bfloat16)
  with target.anywhere():
    assert not tile((1, 64, 64, 192), kernel)


@on_cpu
@pytest.mark.parametrize('side', [16, 32])
def test_winograd_s_way_is_taken(side):
  """Few images of 16x16 as well, whose gradients are by patches."""
  given = jnp.zeros((1, side, side, 192)), jnp.zeros((3, 3, 192, 192))
  # A new function each time: JAX remembers what it has traced.
  program = jax.make_jaxpr(lambda *xs: conv.conv2d(*xs))(*given)
  assert 'dot_general' in str(program)
  assert 'conv_general_dilated' not in str(program)


@pytest.mark.parametrize('platform', ['cpu', 'cuda', 'tpu'])
def test_exports_as_one_plain_convolution(platform):
  exported = jax.export.export(jax.jit(conv.conv2d), platforms=(platform,))
  program = exported(*draw((1, 8, 8, 192), 3, 192)).mlir_module()
  assert program.count('stablehlo.convolution(') == 1
  assert 'custom_call' not in program


def test_compiler_options_keep_the_results():
  x, kernel = draw((8, 8, 8, 32), 3, 32)
  run = lambda **kw: jax.jit(lax_conv, **kw)(x, kernel)
  options = conv.cpu_compiler_options()
  assert_same([run(compiler_options=options)], [run()])


def test_compiler_options_are_empty_off_the_cpu(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert conv.cpu_compiler_options.__wrapped__() == {}


def test_compiler_options_that_jaxlib_rejects_are_left_out(monkeypatch):
  def refuse(f, compiler_options):
    raise jax.errors.JaxRuntimeError('INVALID_ARGUMENT: no such option')

  monkeypatch.setattr(jax, 'jit', refuse)
  assert conv.cpu_compiler_options.__wrapped__() == {}
