"""Tiled decoding against the whole: how much differs, and what memory it takes.

  python -m benchmarks.tiled_decode --workdir=RUN [--sizes=128,256] [--tile=96]

RUN holds a trained first stage. Images are drawn scenes side by side, encoded
whole. Three columns of differences, of 255, over all pixels: tiles as
first_stage.tiles runs them; tiles that see enough but take the norms'
statistics each from itself; and tiles cut without any overlap. Memory is the
compiler's account of what a decoder's program needs while it runs.
"""

import jax
import numpy as np
from absl import flags

import ldm_jax
from ldm_jax import cli
from ldm_jax.data import scenes
from ldm_jax.first_stage import tiles
from ldm_jax.first_stage.codec import to_uint8

_WORKDIR = flags.DEFINE_string('workdir', None, 'A run.', allow_override=True)
_SIZES = flags.DEFINE_list('sizes', ['128', '256'], 'Sides in pixels.')
_TILE = flags.DEFINE_integer(
  'tile', 96, 'Side of a tile, halo included.', allow_override=True
)


def main() -> int:
  ldm = ldm_jax.load(_WORKDIR.value)
  stage, params = ldm.parts.first_stage, ldm.params['first_stage']
  whole = jax.jit(lambda p, z: stage.apply({'params': p}, z, method='decode'))
  tiled = tiles.Tiles(stage, _TILE.value)
  halo = tiled.decoder.halo * tiled.decoder.pixels
  print(f'{stage.__class__.__name__}, tiles of {_TILE.value}, halo {halo}')
  print('size  tiles  own statistics  no overlap  MiB whole  MiB tiled')
  for side in map(int, _SIZES.value):
    z = np.asarray(ldm.encode(picture(side))) / ldm.scale_factor
    program = whole.lower(params, z).compile()
    expected = uint8(program(params, z))
    differences = [
      np.abs(uint8(found) - expected).max()
      for found in (
        tiled.decode(params, z),
        unshared(tiled, params, z),
        cut(whole, z, params),
      )
    ]
    memory = program.memory_analysis().temp_size_in_bytes
    columns = '  '.join(f'{d:>10d}' for d in differences)
    print(f'{side}  {columns}  {mib(memory)}  {mib(tile_bytes(tiled, params))}')
  return 0


def picture(side: int) -> np.ndarray:
  """Scenes side by side, [1 side side 3] in [-1, 1]."""
  source, n = scenes.Scenes(size=32, split='test'), side // 32
  rows = [
    np.concatenate([source[i * n + j]['image'] for j in range(n)], 1)
    for i in range(n)
  ]
  return (np.concatenate(rows)[None] / np.float32(127.5) - 1).astype(np.float32)


def unshared(tiled, params, z) -> np.ndarray:
  """Tiles whose norms take their statistics each from itself."""
  stage, half = tiled.first_stage, tiled.decoder
  h = np.asarray(tiles._program(stage, 'decode_small')(params, z))
  run = tiles._program(stage, half.large, tiled=True)
  side, f = _TILE.value // half.pixels, half.pixels
  image = np.empty((1, h.shape[1] * f, h.shape[2] * f, 3), np.float32)
  for place in tiles.places(h.shape[1:3], (side, side), half.halo):
    rows, columns = (slice(p.start, p.end) for p in place)
    out, _ = run(params, h[:, rows, columns], None, tiles.owned(place))
    into, of = zip(*(p.own(f) for p in place))
    image[:, *into] = np.asarray(out)[:, *of]
  return image


def cut(whole, z, params) -> np.ndarray:
  """Quarters decoded each alone."""
  half = z.shape[1] // 2
  rows = [
    np.concatenate(
      [whole(params, z[:, i : i + half, j : j + half]) for j in (0, half)], 2
    )
    for i in (0, half)
  ]
  return np.concatenate(rows, 1)


def tile_bytes(tiled, params) -> int:
  """What a tile's program needs; the image's size does not enter."""
  stage = tiled.first_stage
  cells = _TILE.value // tiled.decoder.pixels
  width = stage.channels * stage.multipliers[-1]
  h = np.zeros((1, cells, cells, width), np.float32)
  program = tiles._program(stage, 'decode_large', tiled=True)
  owned = np.ones((cells, cells), np.float32)
  compiled = program.lower(params, h, None, owned).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def uint8(x) -> np.ndarray:
  return np.asarray(to_uint8(x)).astype(int)


def mib(count: int) -> str:
  return f'{count / 2**20:9.1f}'


if __name__ == '__main__':
  cli.run(main)
