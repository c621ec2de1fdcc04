"""Embeddings of the timestep."""

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.nn.layers import Dense, Dtype
from ldm_jax.types import Array


def timestep_embedding(
  t: Array, width: int, max_period: float = 10_000.0
) -> Array:
  """Sinusoids of t [B] -> [B width] in float32: cosines first, then sines.

  f_i = exp(-ln(max_period) i / half); an odd width ends on a zero.
  """
  half = width // 2
  i = jnp.arange(half, dtype=jnp.float32)
  frequency = jnp.exp(-jnp.log(max_period) * i / half)
  angle = t.astype(jnp.float32)[:, None] * frequency
  embedding = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
  return jnp.pad(embedding, ((0, 0), (0, width % 2)))


class MLP(nn.Module):
  """Dense, SiLU, Dense: x [B E'] -> [B width]."""

  width: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = Dense(self.width, dtype=self.dtype, name='dense1')(x)
    return Dense(self.width, dtype=self.dtype, name='dense2')(nn.silu(x))
