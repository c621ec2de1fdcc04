"""3x3 convolutions by Winograd's minimal filtering, for CPUs.

Lavin & Gray 2016: 2x2 outputs of a 3x3 convolution cost 16 products and not
36. Tiles of 4x4 inputs, every second pixel one, are transformed to V = B' d B,
the kernel to U = G k G'; at each of the 16 places the channels are mixed by a
matrix product, M = V U; and Y = A' M A are the outputs. All transforms are sums
and halves, so the result differs from the direct one by float32 rounding: a few
1e-6 of its standard deviation.

XLA runs the 16 products as one batched matrix product, which its CPU backend
does faster than any convolution. The gradients are of the same form.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.types import Array

_B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])

_GG = np.kron(_G, _G)  # [16 9]: both sides at once

_TILE = 2  # outputs, by side


@jax.custom_vjp
def conv3x3(x: Array, kernel: Array) -> Array:
  """x [B H W ci], kernel [3 3 ci co] -> [B H W co]; stride 1, padding 1.

  H and W must be even. Forward mode (`jax.jvp`) is refused.
  """
  b, h, w, _ = x.shape
  m = jnp.matmul(_inputs(x), _kernels(kernel))  # [16 T co]
  m = m.reshape(4, 4, b, h // _TILE, w // _TILE, -1)
  rows = _mix(_A, list(m))  # 2 of [4 B h/2 w/2 co]
  y = [jnp.stack(_mix(_A, list(row)), 3) for row in rows]
  return jnp.stack(y, 2).reshape(b, h, w, -1)


def _forward(x, kernel):
  return conv3x3(x, kernel), (x, kernel)


def _backward(residuals, dy):
  x, kernel = residuals
  turned = kernel[::-1, ::-1].swapaxes(2, 3)
  du = jnp.einsum('ptc,ptd->pcd', _inputs(x), _outputs(dy))
  return conv3x3(dy, turned), _mixed(_GG.T, du).reshape(kernel.shape)


conv3x3.defvjp(_forward, _backward)


def _inputs(x: Array) -> Array:
  """V: x [B H W c] -> [16 B*H/2*W/2 c]."""
  _, h, w, c = x.shape
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  columns = [x[:, :, j : j + w : _TILE] for j in range(4)]
  x = jnp.stack(_mix(_B, columns))  # [4 B H+2 W/2 c]
  rows = [x[:, :, i : i + h : _TILE] for i in range(4)]
  return jnp.stack(_mix(_B, rows)).reshape(16, -1, c)


def _outputs(dy: Array) -> Array:
  """The gradient at M: dy [B H W c] -> [16 B*H/2*W/2 c]."""
  columns = [dy[:, :, q::_TILE] for q in range(2)]
  x = jnp.stack(_mix(_A.T, columns))  # [4 B H W/2 c]
  rows = [x[:, :, p::_TILE] for p in range(2)]
  return jnp.stack(_mix(_A.T, rows)).reshape(16, -1, dy.shape[-1])


def _kernels(kernel: Array) -> Array:
  """U: kernel [3 3 ci co] -> [16 ci co]."""
  return _mixed(_GG, kernel.reshape(9, *kernel.shape[2:]))


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
