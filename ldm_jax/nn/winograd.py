"""3x3 convolutions by Winograd's minimal filtering, for CPUs.

Lavin & Gray 2016: m x m outputs of a 3x3 convolution cost (m + 2)^2 products
and not 9 m^2: 16 for 36 of 2x2 outputs, 36 for 144 of 4x4. Tiles of (m + 2)^2
inputs, every m-th pixel one, are transformed to V = B' d B, the kernel to
U = G k G'; at each of the places the channels are mixed by a matrix product,
M = V U; and Y = A' M A are the outputs.

The matrices are Toom and Cook's: a tile is multiplied as polynomials are, by
their values at some points. Which points says how much is lost in float32:
beside the direct convolution's own rounding, 2x2 outputs lose half as much
again and 4x4 four times as much, which is a few 1e-6 and some 1e-5 of the
result's standard deviation at the worst. With the usual 2 for 3/2 and 1 for 5/8
it would be twice that, and four times at the worst.

XLA runs the products as one batched matrix product, which its CPU backend does
faster than any convolution. The gradients are of the same form. All of it is
traced once per shape (`jax.jit`), being many operations.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import polynomial

from ldm_jax.types import Array

# By outputs of a tile's side, the points beside infinity.
_POINTS = {2: (0, 1, -1), 4: (0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)}


@dataclasses.dataclass(frozen=True)
class _Transforms:
  """Of a tile with m outputs by side, and n = m + 2 inputs.

  Attributes:
    inputs: B', [n n].
    kernels: G for both sides at once, [n n, 3 3].
    outputs: A', [m n].
  """

  inputs: np.ndarray
  kernels: np.ndarray
  outputs: np.ndarray


@functools.cache
def _transforms(tile: int) -> _Transforms:
  points = np.array(_POINTS[tile])
  inputs, kernels = [], []
  for i, point in enumerate(points):
    roots = polynomial.polyfromroots(np.delete(points, i))
    inputs.append([*roots, 0])
    kernels.append(point ** np.arange(3) / polynomial.polyval(point, roots))
  inputs.append(polynomial.polyfromroots(points))
  kernels.append([0, 0, 1])
  outputs = np.vander(points, tile, increasing=True).T
  infinity = np.eye(tile)[:, -1:]
  return _Transforms(
    np.array(inputs),
    np.kron(kernels, kernels),
    np.concatenate([outputs, infinity], 1),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
@functools.partial(jax.jit, static_argnums=2, inline=True)
def conv3x3(x: Array, kernel: Array, tile: int) -> Array:
  """x [B H W ci], kernel [3 3 ci co] -> [B H W co]; stride 1, padding 1.

  `tile`, 2 or 4, is how many outputs by side are computed at once; it must
  divide H and W. Forward mode (`jax.jvp`) is refused.
  """
  b, h, w, _ = x.shape
  side = tile + 2
  m = jnp.matmul(_inputs(x, tile), _kernels(kernel, tile))  # [side^2 T co]
  m = m.reshape(side, side, b, h // tile, w // tile, -1)
  mix = functools.partial(_mix, _transforms(tile).outputs)
  rows = mix(list(m))  # tile of [side B h/tile w/tile co]
  y = [jnp.stack(mix(list(row)), 3) for row in rows]
  return jnp.stack(y, 2).reshape(b, h, w, -1)


def _forward(x, kernel, tile):
  return conv3x3(x, kernel, tile), (x, kernel)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _backward(tile, residuals, dy):
  x, kernel = residuals
  turned = kernel[::-1, ::-1].swapaxes(2, 3)
  du = jnp.einsum('ptc,ptd->pcd', _inputs(x, tile), _outputs(dy, tile))
  dkernel = _mixed(_transforms(tile).kernels.T, du).reshape(kernel.shape)
  return conv3x3(dy, turned, tile), dkernel


conv3x3.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnums=1, inline=True)
def _inputs(x: Array, tile: int) -> Array:
  """V: x [B H W c] -> [side^2, B*H/tile*W/tile, c]."""
  _, h, w, c = x.shape
  side = tile + 2
  mix = functools.partial(_mix, _transforms(tile).inputs)
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  columns = [x[:, :, j : j + w : tile] for j in range(side)]
  x = jnp.stack(mix(columns))  # [side B H+2 W/tile c]
  rows = [x[:, :, i : i + h : tile] for i in range(side)]
  return jnp.stack(mix(rows)).reshape(side**2, -1, c)


@functools.partial(jax.jit, static_argnums=1, inline=True)
def _outputs(dy: Array, tile: int) -> Array:
  """The gradient at M: dy [B H W c] -> [side^2, B*H/tile*W/tile, c]."""
  mix = functools.partial(_mix, _transforms(tile).outputs.T)
  columns = [dy[:, :, q::tile] for q in range(tile)]
  x = jnp.stack(mix(columns))  # [side B H W/tile c]
  rows = [x[:, :, p::tile] for p in range(tile)]
  return jnp.stack(mix(rows)).reshape((tile + 2) ** 2, -1, dy.shape[-1])


def _kernels(kernel: Array, tile: int) -> Array:
  """U: kernel [3 3 ci co] -> [side^2 ci co]."""
  kernels = kernel.reshape(9, *kernel.shape[2:])
  return _mixed(_transforms(tile).kernels, kernels)


def _mixed(matrix: np.ndarray, kernels: Array) -> Array:
  """[m n], [n ci co] -> [m ci co], as one product of matrices.

  It takes a quarter of the sums' time where there are many channels.
  """
  flat = matrix.astype(np.float32) @ kernels.reshape(len(kernels), -1)
  return flat.reshape(-1, *kernels.shape[1:])


def _mix(matrix: np.ndarray, terms: list[Array]) -> list[Array]:
  """matrix @ terms, written as sums: no products by 0 and 1."""
  mixed = []
  for weights in matrix:
    y = None
    for weight, x in zip(weights, terms, strict=True):
      if weight == 0:
        continue
      part = x if weight == 1 else -x if weight == -1 else float(weight) * x
      y = part if y is None else y + part
    mixed.append(y)
  return mixed
