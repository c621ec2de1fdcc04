"""Attention, behind one door."""

import functools
import logging
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec

from ldm_jax.nn import backends, by_heads, target
from ldm_jax.nn.layers import Dense, Dtype, GroupNorm
from ldm_jax.types import Array

# Most logits at once, 1 GiB; queries beyond are walked in parts, as images of
# a megapixel need.
_TABLE_ELEMENTS = 2**28

# A CPU walks heads one by one, in blocks, from so many logits of a head on:
# more leave its caches between the two products.
_HEAD_ELEMENTS = 2**19

_logger = logging.getLogger(__name__)


def attend(
  q: Array,
  k: Array,
  v: Array,
  backend: str | None = None,
  causal: bool = False,
) -> Array:
  """softmax(q k^T / sqrt(D)) v: q [B N H D], k and v [B L H D] -> [B N H D].

  The softmax is float32. `backend` None picks one by device, type and shape,
  and logs each choice once; 'xla', 'cudnn' and 'tpu_flash' force it. `causal`:
  query n sees the keys 0 to n alone.

  Raises:
    UserError: an unknown backend, or one that cannot run this here.
  """
  if backend is not None:
    backends.check_name(backend)
  if k.shape[1] == 1:
    # Softmax over one key is 1: q and k have no say, and no gradient.
    return jnp.broadcast_to(v, (*q.shape[:3], v.shape[-1]))
  device, about = backends.here(), (q.dtype, q.shape, k.shape)
  if backend is None:
    backend, why = backends.choose(device, *about)
    if device.has_choice:
      _log_once(backend, why)
  else:
    backends.check(backend, device, *about)
  if backend == 'cudnn':
    return jax.nn.dot_product_attention(
      q, k, v, is_causal=causal, implementation='cudnn'
    )
  if backend == 'tpu_flash':
    return _attend_tpu(q, k, v, causal)
  return _attend_xla(q, k, v, causal)


@functools.cache
def _log_once(backend: str, why: str):
  _logger.info('Attention runs on %s: %s.', backend, why)


def _attend_xla(q: Array, k: Array, v: Array, causal: bool) -> Array:
  if _by_heads(q.shape, k.shape):
    walk = functools.partial(by_heads.attend, causal=causal)
    return _of_each_device(walk, q, k, v)
  parts = 1 if causal else _query_parts(q.shape, k.shape)
  if parts == 1:
    return _attend_whole(q, k, v, causal)
  b, n, h, d = q.shape
  split = q.reshape(b, parts, n // parts, h, d).swapaxes(0, 1)
  y = jax.lax.map(lambda part: _attend_whole(part, k, v, False), split)
  return y.swapaxes(0, 1).reshape(b, n, h, -1)


def _by_heads(q_shape, k_shape) -> bool:
  """Whether a head's table is more than a CPU's caches hold."""
  return (
    target.is_cpu()
    and _known((*q_shape, *k_shape))
    and q_shape[1] * k_shape[1] >= _HEAD_ELEMENTS
  )


def _known(sizes) -> bool:
  """Whether shapes are numbers; those of an exported program may not be."""
  return all(isinstance(size, int) for size in sizes)


def _query_parts(q_shape, k_shape) -> int:
  """How many parts of queries keep a table of logits within its limit."""
  sizes = (*q_shape[:3], k_shape[1])
  if not _known(sizes):
    return 1
  parts = 1
  while math.prod(sizes) // parts > _TABLE_ELEMENTS:
    if q_shape[1] % (2 * parts):
      break
    parts *= 2
  return parts


def _attend_whole(q: Array, k: Array, v: Array, causal: bool) -> Array:
  heads_first = lambda x: jnp.swapaxes(x, 1, 2)
  logits = by_heads.logits_of(heads_first(q), heads_first(k), causal)
  # The softmax's sums divide the result and not the weights: a pass less over
  # the largest array.
  peaks = jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
  weights = jnp.exp(logits - peaks)
  sums = jnp.sum(weights, -1)  # [B H N]
  y = jnp.einsum(
    'bhnl,blhd->bhnd',
    weights.astype(v.dtype),
    v,
    preferred_element_type=jnp.float32,
  )
  return jnp.swapaxes(y / sums[..., None], 1, 2).astype(v.dtype)


def _attend_tpu(q: Array, k: Array, v: Array, causal: bool) -> Array:
  """Pallas' flash attention, a kernel that the compiler divides nowhere."""
  from jax.experimental.pallas.ops.tpu import flash_attention

  heads_first = lambda x: jnp.swapaxes(x, 1, 2)  # [B N H D] <-> [B H N D]

  def attend(q, k, v):
    out = flash_attention.flash_attention(
      heads_first(q),
      heads_first(k),
      heads_first(v),
      causal=causal,
      sm_scale=q.shape[-1] ** -0.5,
    )
    return heads_first(out)

  return _of_each_device(attend, q, k, v)


def _of_each_device(attend: Callable, *qkv: Array) -> Array:
  """Attention of each device's own images.

  What the compiler cannot divide, a kernel or a walk over images, it refuses
  or gathers on every device. So the division is written out, over the mesh that
  the arrays came with.
  """
  mesh = _mesh_of(*qkv)
  if mesh is None:
    return attend(*qkv)
  images = PartitionSpec(_dividing(mesh, qkv[0].shape[0]))
  # A kernel's outputs do not say over which axes they vary, so that JAX cannot
  # check it.
  return jax.shard_map(
    attend, mesh=mesh, in_specs=images, out_specs=images, check_vma=False
  )(*qkv)


def _mesh_of(*arrays: Array) -> AbstractMesh | None:
  """The devices that a program runs on; None where that is one.

  They are those of `jax.set_mesh`, or those that its arguments lie on, as JAX's
  types keep them. What is made of constants alone has none, but q, k and v are
  made with weights.
  """
  named = [jax.typeof(x).sharding.mesh for x in arrays]
  for mesh in (jax.sharding.get_abstract_mesh(), *named):
    if mesh.size > 1:
      return mesh
  return None


def _dividing(mesh: AbstractMesh, count: int) -> tuple[str, ...]:
  """The first axes of a mesh that divide a count; none: all on each device."""
  axes = mesh.axis_names
  while count % math.prod(mesh.shape[axis] for axis in axes):
    axes = axes[:-1]
  return axes


def split_heads(x: Array, num_heads: int) -> Array:
  """[B N C] -> [B N H D]."""
  return x.reshape(*x.shape[:-1], num_heads, -1)


def merge_heads(x: Array) -> Array:
  """[B N H D] -> [B N C]."""
  return x.reshape(*x.shape[:-2], -1)


class MultiHeadAttention(nn.Module):
  """Queries from x [B N C], keys and values from context [B L D] or x.

  The output has a bias; q, k and v have none in the release, one in CLIP. Pads
  are attended, as released.
  """

  num_heads: int
  head_width: int
  backend: str | None = None
  dtype: Dtype = jnp.float32
  qkv_bias: bool = False
  causal: bool = False

  @nn.compact
  def __call__(self, x: Array, context: Array | None = None) -> Array:
    context = x if context is None else context
    project = lambda name, source: split_heads(
      Dense(
        self.num_heads * self.head_width,
        use_bias=self.qkv_bias,
        dtype=self.dtype,
        name=name,
      )(source),
      self.num_heads,
    )
    y = attend(
        project('q', x), project('k', context), project('v', context),
        self.backend, self.causal,
    )  # fmt: skip
    return Dense(x.shape[-1], dtype=self.dtype, name='out')(merge_heads(y))


class AttentionBlock(nn.Module):
  """The U-Net's self-attention over all positions: x [B h w c].

  The fused projection holds, per head, its q, then its k, then its v: the
  order of the released weights.
  """

  num_heads: int
  norm_groups: int = 32
  backend: str | None = None
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    b, h, w, c = x.shape
    y = GroupNorm(self.norm_groups, dtype=self.dtype, name='norm')(x)
    y = y.reshape(b, h * w, c)
    qkv = Dense(3 * c, dtype=self.dtype, name='qkv')(y)
    qkv = qkv.reshape(b, h * w, self.num_heads, 3, -1)  # [B N H 3 D]
    q, k, v = (qkv[..., i, :] for i in range(3))
    y = merge_heads(attend(q, k, v, self.backend))
    y = Dense(
      c,
      kernel_init=nn.initializers.zeros,
      dtype=self.dtype,
      name='proj_out',
    )(y)
    return x + y.reshape(b, h, w, c)
