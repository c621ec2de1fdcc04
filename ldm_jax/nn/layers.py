"""Convolutional building blocks of both networks."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.nn.conv import Padding, conv2d
from ldm_jax.nn.normalise import group_norm, layer_norm
from ldm_jax.types import Array

Dtype = Any


def _one_product(x, kernel, dimension_numbers, precision=None):
  """x [... ci], kernel [ci co] -> [... co], over all positions at once.

  The kernel's gradient then sums over one axis. Over several, XLA's CPU
  compiler copies an operand to turn it, and multiplies it as it then lies: 6
  times as slow together for the feed-forward's projection.
  """
  del dimension_numbers  # A dense layer's: the last axis with the first.
  rows = x.reshape(-1, x.shape[-1])
  y = jax.lax.dot(rows, kernel, precision=precision)
  return y.reshape(*x.shape[:-1], -1)


# Traced once per shape: flax asks for every kernel's first values, whenever a
# model is traced.
_KERNEL_INIT = jax.jit(nn.linear.default_kernel_init, static_argnums=(1, 2))

Dense = functools.partial(
  nn.Dense, dot_general=_one_product, kernel_init=_KERNEL_INIT
)


class Conv(nn.Module):
  """A 2-D convolution: x [B H W ci] -> [B H' W' features].

  Pads symmetrically by (k - 1) // 2 unless told otherwise, as PyTorch does;
  flax's 'SAME' pads a strided convolution on the right only.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  padding: Padding | None = None
  kernel_init: nn.initializers.Initializer = _KERNEL_INIT
  use_bias: bool = True
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    k = self.kernel_size
    kernel = self.param(
      'kernel', self.kernel_init, (k, k, x.shape[-1], self.features)
    )
    half = (k - 1) // 2
    padding = self.padding or ((half, half), (half, half))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    y = conv2d(x, kernel, self.stride, padding)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      y = y + bias.astype(self.dtype)
    return y


class GroupNorm(nn.Module):
  """Group normalisation with float32 statistics, whatever the activations.

  eps is 1e-5 in the U-Net and 1e-6 in the autoencoder and in front of the
  spatial transformer.
  """

  num_groups: int = 32
  epsilon: float = 1e-5
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    channels = x.shape[-1]
    if channels % self.num_groups:
      raise ValueError(
        f'{channels} channels do not divide into {self.num_groups} groups'
      )
    scale = self.param('scale', nn.initializers.ones, (channels,))
    bias = self.param('bias', nn.initializers.zeros, (channels,))
    y = group_norm(x, scale, bias, self.num_groups, self.epsilon)
    return y.astype(self.dtype)


class LayerNorm(nn.Module):
  """Layer normalisation of x [.. C], with float32 statistics."""

  epsilon: float = 1e-5
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    return layer_norm(x, scale, bias, self.epsilon).astype(self.dtype)


class ResBlock(nn.Module):
  """The U-Net's residual block: the time embedding joins between two 3x3s.

  `resample` 'up' or 'down' changes the resolution inside the block: nearest
  neighbour or 2x2 average pooling, after norm and SiLU, and on the skip.
  """

  channels: int
  dropout: float = 0.0
  scale_shift: bool = False
  resample: str | None = None
  norm_groups: int = 32
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, temb: Array, train: bool) -> Array:
    norm = lambda name: GroupNorm(self.norm_groups, dtype=self.dtype, name=name)
    h = nn.silu(norm('norm1')(x))
    if self.resample is not None:
      change = {'up': upsample_nearest, 'down': average_pool}[self.resample]
      h, x = change(h), change(x)
    h = Conv(self.channels, dtype=self.dtype, name='conv1')(h)

    width = self.channels * (2 if self.scale_shift else 1)
    temb = Dense(width, dtype=self.dtype, name='temb')(nn.silu(temb))
    temb = temb[:, None, None]  # [B E] -> [B 1 1 c]
    if self.scale_shift:
      scale, shift = jnp.split(temb, 2, axis=-1)
      h = norm('norm2')(h) * (1 + scale) + shift
    else:
      h = norm('norm2')(h + temb)
    h = nn.Dropout(self.dropout)(nn.silu(h), deterministic=not train)
    # Zero-initialised: the block starts as the identity.
    h = Conv(
      self.channels,
      kernel_init=nn.initializers.zeros,
      dtype=self.dtype,
      name='conv2',
    )(h)
    if x.shape[-1] != self.channels:
      x = Conv(self.channels, 1, dtype=self.dtype, name='skip')(x)
    return x + h


def upsample_nearest(x: Array) -> Array:
  """[B h w c] -> [B 2h 2w c]: every pixel four times."""
  b, h, w, c = x.shape
  # Stacked, not broadcast: the gradient is four slices added, and no sum over
  # axes that lie apart.
  x = jnp.stack([x, x], 3).reshape(b, h, 2 * w, c)
  return jnp.stack([x, x], 2).reshape(b, 2 * h, 2 * w, c)


def average_pool(x: Array) -> Array:
  """[B h w c] -> [B h/2 w/2 c]: means of 2x2 windows."""
  return nn.avg_pool(x, (2, 2), (2, 2))


class Downsample(nn.Module):
  """Halves the resolution with a strided 3x3.

  The U-Net pads by 1 on all sides, the autoencoder right and bottom only.
  """

  padding: Padding = ((1, 1), (1, 1))
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return Conv(
      x.shape[-1],
      stride=2,
      padding=self.padding,
      dtype=self.dtype,
      name='conv',
    )(x)


class Upsample(nn.Module):
  """Doubles the resolution: nearest neighbour, then a 3x3."""

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return Conv(x.shape[-1], dtype=self.dtype, name='conv')(upsample_nearest(x))
