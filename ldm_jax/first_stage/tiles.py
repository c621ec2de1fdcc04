"""A first stage run in tiles that give what it gives of the whole image.

Two things make the tiles of a network differ from its whole: what it sees
around a pixel, and the group norms, whose statistics are of the whole image.
So a tile is taken with all that its pixels see (`Half.halo`), and the norms
are given statistics gathered over all tiles. Those of the first norm are right
after one pass, and each is right one pass after those before it; so there are
as many passes as norms, or fewer where they settle sooner. The last pass checks
that they did: its pixels were made with statistics that it then found again.

Levels that attend, and the lowest, run whole: they are 1 / f^2 of the image.
Memory on the device is therefore that of a tile plus a latent's; images stay
on the host.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.first_stage.autoencoder import Identity
from ldm_jax.nn import conv
from ldm_jax.nn.layers import GroupNorm
from ldm_jax.types import Array, Params, UserError

# Statistics have settled where means moved by less than this share of the
# standard deviation, and variances by this share of themselves.
SETTLED = 1e-3


@dataclasses.dataclass(frozen=True)
class Half:
  """Encoder or decoder, in cells: the pixels of the level where parts meet.

  Attributes:
    pixels: how many pixels of the image a cell is wide.
    halo: how many cells around one its result depends on.
  """

  large: str  # The method that runs in tiles.
  pixels: int
  halo: int


@dataclasses.dataclass(frozen=True)
class Tiles:
  """Encoding and decoding in tiles of `size` x `size` pixels, halo included.

  Raises:
    UserError: tiles too small to hold their halo.
  """

  first_stage: nn.Module
  size: int

  def __post_init__(self):
    if isinstance(self.first_stage, Identity):
      return
    for half in (self.encoder, self.decoder):
      least = (2 * half.halo + 1) * half.pixels
      if self.size % half.pixels or self.size < least:
        raise UserError(
          f'tile={self.size}: tiles of this first stage must be a multiple of '
          f'{half.pixels} pixels, and at least {least}, since a pixel depends '
          f'on {half.halo * half.pixels} around it.'
        )

  @property
  def _split(self) -> int:
    """The first of the levels that run whole."""
    stage = self.first_stage
    last = len(stage.multipliers) - 1
    return min((*stage.attention_levels, last))

  @property
  def encoder(self) -> Half:
    # Two convolutions a block; the strided one reaches two to the right.
    level = 2 * self.first_stage.num_res_blocks + 2
    sees = 1 + sum(level * 2**i for i in range(self._split))
    pixels = 2**self._split
    return Half('encode_large', pixels, math.ceil(sees / pixels))

  @property
  def decoder(self) -> Half:
    # An upsampling's convolution, and one block more than in the encoder.
    level = 2 * (self.first_stage.num_res_blocks + 1) + 1
    sees = 1 + sum(level * 2**i for i in range(self._split))
    pixels = 2**self._split
    return Half('decode_large', pixels, math.ceil(sees / pixels))

  def encode(self, params: Params, image: np.ndarray) -> np.ndarray:
    """[B H W 3] -> latents [B h w c], as the first stage's without an rng."""
    if isinstance(self.first_stage, Identity):
      return np.asarray(image)
    h = self._in_tiles(params, np.asarray(image, np.float32), self.encoder)
    return np.asarray(_program(self.first_stage, 'encode_small')(params, h))

  def decode(self, params: Params, z: np.ndarray) -> np.ndarray:
    """latents [B h w c] -> [B H W 3], as the first stage's."""
    if isinstance(self.first_stage, Identity):
      return np.asarray(z)
    h = np.asarray(_program(self.first_stage, 'decode_small')(params, z))
    return self._in_tiles(params, h, self.decoder)

  def _in_tiles(self, params, x: np.ndarray, half: Half) -> np.ndarray:
    encodes = half.large == 'encode_large'
    unit = half.pixels if encodes else 1  # Of x, in a cell.
    cells = [side // unit for side in x.shape[1:3]]
    tile = [min(self.size // half.pixels, n) for n in cells]
    run = _program(self.first_stage, half.large, tiled=True)
    statistics = None
    while True:
      result, found = None, []
      for place in places(cells, tile, half.halo):
        rows, columns = (slice(p.start * unit, p.end * unit) for p in place)
        out, moments = run(
          params, x[:, rows, columns], statistics, owned(place)
        )
        found.append(jax.device_get(moments))
        ratio = out.shape[1] // tile[0]  # Of the result, in a cell.
        if result is None:
          shape = (len(x), *(n * ratio for n in cells), out.shape[-1])
          result = np.empty(shape, out.dtype)
        into, of = zip(*(p.own(ratio) for p in place))
        result[:, *into] = np.asarray(out)[:, *of]
      together = pooled(found)
      # One tile is the whole, and found its own.
      if len(found) == 1 or (
        statistics is not None and settled(statistics, together)
      ):
        return result
      statistics = together


@dataclasses.dataclass(frozen=True)
class Place:
  """A tile along a side, in cells: [start, end), of which it owns a part."""

  start: int
  end: int
  first: int
  last: int

  def own(self, ratio: int) -> tuple[slice, slice]:
    """What it owns, in the whole and in itself, at `ratio` pixels a cell."""
    first, last = self.first - self.start, self.last - self.start
    return (
      slice(self.first * ratio, self.last * ratio),
      slice(first * ratio, last * ratio),
    )


def along(length: int, tile: int, halo: int) -> list[Place]:
  """Tiles of one size that own each cell once, `halo` away from their ends.

  At the ends of the image a tile owns all: there the network itself pads.
  """
  count = 1
  if length > tile:
    count += math.ceil((length - tile) / (tile - 2 * halo))
  found, owned_until = [], 0
  for i in range(count):
    start = min(i * (tile - 2 * halo), length - tile)
    last = length if i == count - 1 else start + tile - halo
    found.append(Place(start, start + tile, owned_until, last))
    owned_until = last
  return found


def places(cells, tile, halo: int) -> Iterator[tuple[Place, Place]]:
  return itertools.product(
    *(along(n, side, halo) for n, side in zip(cells, tile))
  )


def owned(place: tuple[Place, Place]) -> np.ndarray:
  """[tile tile], 1 in the cells that a tile owns."""
  sides = []
  for p in place:
    cells = np.arange(p.start, p.end)
    sides.append((p.first <= cells) & (cells < p.last))
  return np.outer(*sides).astype(np.float32)


@functools.cache
def _program(first_stage: nn.Module, method: str, tiled: bool = False):
  """A compiled method of the first stage; kept, since tiles are many."""

  def plain(params, x):
    return first_stage.apply({'params': params}, x, method=method)

  def of_tile(params, x, statistics, weight):
    """(result, moments of each norm's input over the cells it owns)."""
    with nn.intercept_methods(norms := _Norms(statistics, weight)):
      return plain(params, x), norms.moments

  return conv.jit(of_tile if tiled else plain)


class _Norms:
  """Gives group norms their statistics, and finds a tile's share of them."""

  def __init__(self, statistics, weight: Array):
    self.statistics, self.weight, self.moments = statistics, weight, {}

  def __call__(self, call, args, kwargs, context):
    norm = context.module
    if not isinstance(norm, GroupNorm) or context.method_name != '__call__':
      return call(*args, **kwargs)
    (x,) = args
    name = '/'.join(norm.path)
    ratio = x.shape[1] // self.weight.shape[0]
    weight = jnp.repeat(jnp.repeat(self.weight, ratio, 0), ratio, 1)
    grouped = x.astype(jnp.float32).reshape(
      *x.shape[:-1], norm.num_groups, x.shape[-1] // norm.num_groups
    )  # [B H W G n]
    self.moments[name] = moments(grouped, weight)
    mean, var = (self.statistics or {}).get(
      name, (self.moments[name][1], self.moments[name][2])
    )
    expand = lambda s: s[:, None, None, :, None]
    y = (grouped - expand(mean)) * jax.lax.rsqrt(expand(var) + norm.epsilon)
    scale = norm.get_variable('params', 'scale')
    bias = norm.get_variable('params', 'bias')
    return (y.reshape(x.shape) * scale + bias).astype(norm.dtype)


def moments(x: Array, weight: Array) -> tuple[Array, Array, Array]:
  """(count [], mean [B G], variance [B G]) of x [B H W G n] under 0 or 1."""
  count = jnp.sum(weight) * x.shape[-1]
  weight = weight[None, :, :, None, None]
  mean = jnp.sum(weight * x, (1, 2, 4)) / count
  centred = weight * (x - mean[:, None, None, :, None])
  return count, mean, jnp.sum(jnp.square(centred), (1, 2, 4)) / count


def pooled(found: list[dict]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Moments of each tile -> (mean, variance) [B G] of all, by norm."""
  together = {}
  for name in found[0]:
    count, mean, var = (
      np.stack([np.asarray(f[name][i], np.float64) for f in found])
      for i in range(3)
    )
    share = (count / count.sum())[:, None, None]
    whole = np.sum(share * mean, 0)
    spread = np.sum(share * (var + np.square(mean - whole)), 0)
    together[name] = tuple(np.float32(x) for x in (whole, spread))
  return together


def settled(before: dict, now: dict) -> bool:
  """Whether statistics are the same again, to a part in SETTLED."""
  for name, (mean, var) in now.items():
    old_mean, old_var = before[name]
    moved = np.abs(mean - old_mean) / np.sqrt(var + 1e-6)
    grown = np.abs(var - old_var) / (var + 1e-6)
    if max(moved.max(), grown.max()) > SETTLED:
      return False
  return True
