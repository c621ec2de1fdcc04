"""The patch discriminator of the first stages (App. G; Isola et al. 2017)."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.nn.layers import Conv
from ldm_jax.types import Array, UserError


class BatchNorm(nn.Module):
  """Normalises by the batch; running statistics as PyTorch keeps them.

  Under a mesh the batch is the global one: jit computes the mean over all
  devices. The running variance is the unbiased one, moving by 0.1 a step;
  flax's own layer keeps the biased one.
  """

  momentum: float = 0.1
  epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    shape = (x.shape[-1],)
    # N(1, .02), as released.
    init_scale = lambda rng, shape: 1 + nn.initializers.normal(0.02)(rng, shape)
    scale = self.param('scale', init_scale, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    mean = self.variable('batch_stats', 'mean', jnp.zeros, shape)
    var = self.variable('batch_stats', 'var', jnp.ones, shape)
    x = x.astype(jnp.float32)
    if train:
      axes = tuple(range(x.ndim - 1))
      used_mean = jnp.mean(x, axes)
      used_var = jnp.mean(jnp.square(x - used_mean), axes)
      if not self.is_initializing():
        n = x.size // x.shape[-1]
        move = lambda old, new: old + self.momentum * (new - old)
        mean.value = move(mean.value, used_mean)
        var.value = move(var.value, used_var * n / max(n - 1, 1))
    else:
      used_mean, used_var = mean.value, var.value
    y = (x - used_mean) / jnp.sqrt(used_var + self.epsilon)
    return (y * scale + bias).astype(self.dtype)


class Discriminator(nn.Module):
  """Tells patches of real images from reconstructions.

  x [B H W 3] -> logits [B H' W' 1], float32, high for real. 2.77M parameters
  with 3 layers, 0.66M with 2. `train` normalises by the batch and updates the
  collection `batch_stats`, which must then be mutable.
  """

  channels: int = 64
  num_layers: int = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool = True) -> Array:
    conv = functools.partial(
      Conv,
      kernel_size=4,
      padding=((1, 1), (1, 1)),
      kernel_init=nn.initializers.normal(0.02),
      dtype=self.dtype,
    )
    height, width = x.shape[1:3]
    leaky = functools.partial(nn.leaky_relu, negative_slope=0.2)
    x = leaky(conv(self.channels, stride=2, name='conv_0')(x))
    for i in range(1, self.num_layers + 1):
      features = self.channels * min(2**i, 8)
      stride = 2 if i < self.num_layers else 1
      # The norm has the bias.
      x = conv(features, stride=stride, use_bias=False, name=f'conv_{i}')(x)
      x = leaky(BatchNorm(dtype=self.dtype, name=f'norm_{i}')(x, train))
    x = conv(1, name=f'conv_{self.num_layers + 1}')(x)
    if not x.size:
      raise UserError(
        f'Images of {height}x{width} are too small for a discriminator with '
        f'loss.disc_layers={self.num_layers}; use fewer layers.'
      )
    return x.astype(jnp.float32)
