"""Vector quantisation with straight-through gradients (paper, Sec. 3.1)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.types import Array

# Most elements of a table of distances; larger ones are walked in parts.
_TABLE_ELEMENTS = 2**27
# What a batch is taken for where it is symbolic, in an exported program.
_SYMBOLIC_BATCH = 16


def nearest(z: Array, codebook: Array) -> Array:
  """Indices [...] int32 of the rows of codebook [n c] nearest to z [... c].

  16,384 codes against a batch of 64 x 64 latents make a table of gigabytes,
  so a large table is walked in parts of the codebook; ties go to the first.
  """
  n, c = codebook.shape
  batch = z.shape[0] if isinstance(z.shape[0], int) else _SYMBOLIC_BATCH
  rows = batch * math.prod(z.shape[1:-1])
  parts = 1
  while rows * n // parts > _TABLE_ELEMENTS and n % (2 * parts) == 0:
    parts *= 2

  def search(best, part):
    codes, first = part
    # |z|^2 is the same for every code. Full precision: in TF32 or bfloat16
    # passes the nearest code is often another one.
    distance = jnp.sum(jnp.square(codes), -1) - 2 * jnp.einsum(
      '...c,nc->...n', z, codes, precision=jax.lax.Precision.HIGHEST
    )
    index = jnp.argmin(distance, -1).astype(jnp.int32)
    distance = jnp.min(distance, -1)
    better = distance < best[0]
    return (
      jnp.where(better, distance, best[0]),
      jnp.where(better, first + index, best[1]),
    ), None

  start = (
    jnp.full(z.shape[:-1], jnp.inf, jnp.float32),
    jnp.zeros(z.shape[:-1], jnp.int32),
  )
  z, codebook = z.astype(jnp.float32), codebook.astype(jnp.float32)
  firsts = jnp.arange(parts, dtype=jnp.int32) * (n // parts)
  codes = codebook.reshape(parts, n // parts, c)
  if parts == 1:
    return search(start, (codes[0], firsts[0]))[0][1]
  return jax.lax.scan(search, start, (codes, firsts))[0][1]


def straight_through(z: Array, quantized: Array) -> Array:
  """The value of `quantized`, with the gradient going to z alone."""
  return z + jax.lax.stop_gradient(quantized - z)


def code_shares(indices: Array, num_codes: int) -> Array:
  """Share of each code among indices: [num_codes], summing to 1."""
  counts = jnp.zeros(num_codes, jnp.float32).at[indices.reshape(-1)].add(1.0)
  return counts / indices.size


def perplexity(shares: Array) -> Array:
  """exp(entropy) of shares [n]: n when all are used alike, 1 when one is."""
  return jnp.exp(-jnp.sum(shares * jnp.log(jnp.maximum(shares, 1e-30))))


def usage(shares: Array) -> Array:
  """Share of the codes that occur at all."""
  return jnp.mean(shares > 0)


class Codebook(nn.Module):
  """`num_codes` vectors of width `dim`, initialised to U(-1/n, 1/n)."""

  num_codes: int
  dim: int

  @nn.compact
  def __call__(self, z: Array) -> tuple[Array, Array]:
    """z [B h w c] -> (nearest codes [B h w c], their indices [B h w])."""
    bound = 1.0 / self.num_codes
    init = lambda rng, shape: jax.random.uniform(
      rng, shape, minval=-bound, maxval=bound
    )
    embedding = self.param('embedding', init, (self.num_codes, self.dim))
    indices = nearest(jax.lax.stop_gradient(z), embedding)
    return embedding[indices], indices
