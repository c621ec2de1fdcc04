"""The convolution, and what makes its gradients fast on a CPU.

Accelerators and XLA's CPU compiler both do well with
`jax.lax.conv_general_dilated`, with exceptions on the CPU, measured by
`benchmarks/conv_gradients.py`:

1. jaxlib 0.10 hands float32 convolutions and matrix products to YNNPACK, which
   runs many of them on one thread, where Eigen, which it displaced, uses them
   all. `jit`, with which this package compiles, takes Eigen back.
2. Images of 16x16 and more with many channels take Winograd's way, forward and
   backward; see `winograd`.
3. Where all images together have few positions, the kernel is the large array,
   and turning or transforming it for the gradients takes long. Both gradients
   are products with the patches then, which read it as it lies.
4. Where an image has fewer positions than the kernel, XLA turns the kernel and
   slides the image over it, which takes 10 to 40 times as long as a product
   with the patches.
5. The weight gradient is a convolution whose input features are the batch. One
   of a few images leaves its matrix products as shallow; `_kernel_grad_by_rows`
   folds the images' rows into that dimension. For larger batches XLA's own
   gradient is as fast or faster.
6. Gradients as JAX writes them are convolutions with their dimensions in other
   orders. XLA puts those in order for Eigen, but not within `jax.lax.scan`:
   there, a naive loop would compute them. `_conv_in_order` writes the gradients
   in order, so that microbatches and guided sampling are as fast as one step.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.nn import target, winograd
from ldm_jax.types import Array

Padding = tuple[tuple[int, int], tuple[int, int]]


def conv2d(
  x: Array,
  kernel: Array,
  stride: int = 1,
  padding: Padding = ((1, 1), (1, 1)),
) -> Array:
  """Cross-correlation: x [B H W ci], kernel [k k ci co] -> [B H' W' co].

  On a CPU it has custom reverse-mode rules, and forward mode (`jax.jvp`) is
  refused, as by any `jax.custom_vjp`.
  """
  if _patches_are_faster(x.shape, kernel.shape, stride):
    return _conv_few_positions(x, kernel, padding)
  if tile := _winograd_tile(x, kernel.shape, stride, padding):
    return winograd.conv3x3(x, kernel, tile)
  if _rows_are_faster(x.shape, kernel.shape, stride):
    return _conv_few_images(x, kernel, padding)
  return _conv(x, kernel, stride, padding)


def jit(function: Callable, **settings) -> Callable:
  """`jax.jit` with `cpu_compiler_options`, for whatever convolves."""
  options = cpu_compiler_options()
  return jax.jit(function, compiler_options=options, **settings)


@functools.cache
def cpu_compiler_options() -> dict[str, str]:
  """Options for `jax.jit`: CPUs convolve with Eigen's kernels, and recompute.

  Empty on other platforms, and where this jaxlib does not know the options.
  """
  if jax.default_backend() != 'cpu':
    return {}
  # What YNNPACK gets in jaxlib 0.10.2, without INDIVIDUAL_CONVOLUTION and
  # INDIVIDUAL_DOT.
  options = {
    'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE',
    # Else barriers are gone before equal operations become one, and what
    # `jax.checkpoint` is to compute again is kept instead.
    'xla_disable_hlo_passes': 'cse_barrier_expander',
  }
  try:
    jax.jit(lambda: 0.0, compiler_options=options)()
  except jax.errors.JaxRuntimeError:
    return {}
  return options


def _winograd_tile(x, kernel_shape, stride, padding) -> int | None:
  """How many outputs by side to compute at once; None: the direct way is best.

  It is so where the transforms are much beside the products: the kernel's where
  an image is small, and that for larger tiles is larger. The batch has no say:
  an image is to be the same in any. Images that would take more than 512 MiB
  transformed are left to the direct convolution.
  """
  _, h, w, _ = x.shape
  k, _, ci, co = kernel_shape
  if (
    not target.is_cpu()
    or x.dtype != jnp.float32  # Half precision would lose in the sums.
    or not all(isinstance(size, int) for size in x.shape)  # To be exported.
    or (k, stride, padding) != (3, 1, ((1, 1), (1, 1)))
    or min(ci, co) < 96
    or h * w * max(ci, co) > 2**25
  ):
    return None
  for tile, positions in ((4, 1024), (2, 256)):
    if h % tile == w % tile == 0 and h * w >= positions:
      return tile
  return None


def _patches_are_faster(x_shape, kernel_shape, stride) -> bool:
  """Whether the kernel is large beside all images' patches."""
  k, _, ci, co = kernel_shape
  return (
    stride == 1
    and k > 1
    and min(ci, co) >= 128
    and target.is_cpu()
    and all(isinstance(size, int) for size in x_shape)
    and math.prod(x_shape[:3]) <= 256
  )


def _rows_are_faster(x_shape, kernel_shape, stride) -> bool:
  """Whether to differentiate a few images' convolution by rows.

  Decided while tracing, so that no other platform ever sees the custom rule.
  """
  k, _, ci, co = kernel_shape
  return (
    stride == 1
    and k > 1
    and min(ci, co) >= 128
    and target.is_cpu()
    and isinstance(x_shape[0], int)
    and x_shape[0] <= 4
  )


def _kernel_is_larger(x_shape, kernel_shape) -> bool:
  """Whether an image has fewer positions than the kernel."""
  return (
    target.is_cpu()
    and all(isinstance(size, int) for size in x_shape[1:3])
    and math.prod(x_shape[1:3]) < math.prod(kernel_shape[:2])
  )


def _conv(x, kernel, stride, padding):
  if _kernel_is_larger(x.shape, kernel.shape):
    return _conv_by_patches(x, kernel, stride, padding)
  if target.is_cpu():
    return _conv_in_order(x, kernel, stride, padding)
  return _lax_conv(x, kernel, (stride, stride), padding)


def _lax_conv(x, kernel, strides, padding, **dilations):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    strides,
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    **dilations,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv_in_order(x, kernel, stride, padding):
  return _lax_conv(x, kernel, (stride, stride), padding)


def _forward_in_order(x, kernel, stride, padding):
  return _conv_in_order(x, kernel, stride, padding), (x, kernel)


def _backward_in_order(stride, padding, residuals, dy):
  """dx slides the turned kernel over dy, dkernel slides dy over x."""
  x, kernel = residuals
  k = kernel.shape[0]
  strides = (stride, stride)
  # What of x's far sides no kernel reaches: dx is 0 there.
  reach = [stride * (size - 1) + k for size in dy.shape[1:3]]
  sizes = zip(x.shape[1:3], padding, reach, strict=True)
  missed = [lo + size + hi - end for size, (lo, hi), end in sizes]
  margins = list(zip(padding, missed, strict=True))
  dx = _lax_conv(
    dy,
    kernel[::-1, ::-1].swapaxes(2, 3),
    (1, 1),
    [(k - 1 - lo, k - 1 - hi + rest) for (lo, hi), rest in margins],
    lhs_dilation=strides,
  )
  dkernel = _lax_conv(
    x.transpose(3, 1, 2, 0),
    dy.transpose(1, 2, 0, 3),
    (1, 1),
    [(lo, hi - rest) for (lo, hi), rest in margins],
    rhs_dilation=strides,
  )
  return dx, dkernel.transpose(1, 2, 0, 3)


_conv_in_order.defvjp(_forward_in_order, _backward_in_order)


def _conv_by_patches(x, kernel, stride, padding):
  """One product of all that the kernel meets, [B H' W' k k ci], with it."""
  k, _, ci, co = kernel.shape
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  ends = [size - k + 1 for size in x.shape[1:3]]
  met = [
    x[:, i : i + ends[0] : stride, j : j + ends[1] : stride]
    for i in range(k)
    for j in range(k)
  ]
  return jnp.concatenate(met, -1) @ kernel.reshape(k * k * ci, co)


def _with_gradients(backward):
  """A convolution of stride 1, (x, kernel, padding) -> y, with this rule."""

  def conv(x, kernel, padding):
    if tile := _winograd_tile(x, kernel.shape, 1, padding):
      return winograd.conv3x3(x, kernel, tile)
    return _conv(x, kernel, 1, padding)

  def forward(x, kernel, padding):
    return conv(x, kernel, padding), (x, kernel)

  conv.__name__ = backward.__name__
  conv = jax.custom_vjp(conv, nondiff_argnums=(2,))
  conv.defvjp(forward, backward)
  return conv


@_with_gradients
def _conv_few_positions(padding, residuals, dy):
  x, kernel = residuals
  k, _, ci, co = kernel.shape
  dkernel = _patches(x, k, padding) @ dy.reshape(-1, co)
  met = kernel.reshape(-1, co) @ dy.reshape(-1, co).T  # [k k ci B*H'*W']
  met = met.reshape(k, k, ci, *dy.shape[:3])
  return _spread(met, padding), dkernel.reshape(kernel.shape)


def _patches(x, k, padding):
  """What a kernel meets: x [B H W ci] -> [k k ci, B*H'*W']."""
  x = jnp.pad(x.transpose(3, 0, 1, 2), ((0, 0), (0, 0), *padding))
  h, w = (size - k + 1 for size in x.shape[2:])
  rows = jnp.stack([x[:, :, i : i + h] for i in range(k)])
  met = jnp.stack([rows[..., j : j + w] for j in range(k)], 1)
  return met.reshape(k * k * x.shape[0], -1)


def _spread(met, padding):
  """The sum of what was met at every pixel: [k k ci B H' W'] -> [B H W ci]."""
  k = len(met)
  back = [(k - 1 - lo, k - 1 - hi) for lo, hi in padding]
  h, w = (size + sum(p) - k + 1 for size, p in zip(met.shape[4:], back))
  met = jnp.pad(met, ((0, 0),) * 4 + tuple(back))
  met = sum(met[:, j, ..., k - 1 - j :][..., :w] for j in range(k))
  x = sum(met[i, :, :, k - 1 - i :][:, :, :h] for i in range(k))
  return x.transpose(1, 2, 3, 0)


@_with_gradients
def _conv_few_images(padding, residuals, dy):
  x, kernel = residuals
  _, input_grad = jax.vjp(lambda x: _conv(x, kernel, 1, padding), x)
  dkernel = _kernel_grad_by_rows(x, dy, kernel.shape[0], padding)
  return *input_grad(dy), dkernel


def _kernel_grad_by_rows(x, dy, k, padding):
  """x [B H W ci], dy [B H' W' co] -> [k k ci co], one kernel row at a time.

  Row i is a 1-D convolution along W of x, shifted by i rows, with dy; ci is
  its batch, co its output features, and what it sums over is (H', B).
  """
  rows = dy.shape[1]
  x = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0)))
  x = x.transpose(3, 2, 1, 0)  # [ci W H B]
  dy = dy.transpose(2, 1, 0, 3)  # [W' H' B co]
  dkernel = [
    jax.lax.conv_general_dilated(
      x[:, :, i : i + rows].reshape(*x.shape[:2], -1),
      dy.reshape(dy.shape[0], -1, dy.shape[-1]),
      (1,),
      padding[1:],
      dimension_numbers=('NHC', 'HIO', 'NHC'),
    )
    for i in range(k)
  ]
  return jnp.stack(dkernel).swapaxes(1, 2)
