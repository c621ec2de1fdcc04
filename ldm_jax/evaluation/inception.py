"""Inception-v3 as the field's FID computes it.

TensorFlow's network of 2015, not torchvision's: average pools leave the
padding out, the last block has a maximum where the one before it averages,
and batch normalisation has eps 1e-3. Names are those of the ported files.
"""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.evaluation import inception_graph
from ldm_jax.evaluation.features import Network
from ldm_jax.evaluation.weights import Shapes, checked, read_checked
from ldm_jax.types import Array, Params

SIZE = 299
NEEDED = (
  "pt_inception-2015-12-05-6726825d.pth (of pytorch-fid, or torch-fidelity's "
  'weights-inception-2015-12-05-6726825d.pth; sha256 begins with 6726825d) or '
  'classify_image_graph_def.pb (of the ADM evaluator)'
)


class Conv(nn.Module):
  """Convolution without bias, batch normalisation as stored, ReLU."""

  features: int
  size: tuple[int, int] = (1, 1)
  stride: int = 1
  pad: bool = True  # Evenly, so that stride 1 keeps the resolution.

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (*self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    x = jax.lax.conv_general_dilated(
      x,
      kernel,
      (self.stride, self.stride),
      [(n // 2 if self.pad else 0,) * 2 for n in self.size],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    vector = lambda name, init: self.param(name, init, (self.features,))
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    scale = vector('scale', ones) * jax.lax.rsqrt(vector('var', ones) + 1e-3)
    return nn.relu((x - vector('mean', zeros)) * scale + vector('bias', zeros))


class _Block(nn.Module):
  """Branches from one input, side by side in the result's channels."""

  def chain(self, x: Array, *convs) -> Array:
    for name, *settings in convs:
      x = Conv(*settings, name=name)(x)
    return x


class BlockA(_Block):
  """35x35: 1x1, 5x5, two 3x3, average pool."""

  pool: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    triple = [('branch3x3dbl_2', 96, (3, 3)), ('branch3x3dbl_3', 96, (3, 3))]
    return _join(
      self.chain(x, ('branch1x1', 64)),
      self.chain(x, ('branch5x5_1', 48), ('branch5x5_2', 64, (5, 5))),
      self.chain(x, ('branch3x3dbl_1', 64), *triple),
      self.chain(_average(x), ('branch_pool', self.pool)),
    )


class BlockB(_Block):
  """35x35 to 17x17."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return _join(
      self.chain(x, ('branch3x3', 384, (3, 3), 2, False)),
      self.chain(
        x,
        ('branch3x3dbl_1', 64),
        ('branch3x3dbl_2', 96, (3, 3)),
        ('branch3x3dbl_3', 96, (3, 3), 2, False),
      ),
      _max(x, 2, 'VALID'),
    )


class BlockC(_Block):
  """17x17: 1x1, and 7x7 as rows and columns, once and twice; average pool.

  Returns the first branch too, which holds sFID's features.
  """

  width: int

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    w, row, column = self.width, (1, 7), (7, 1)
    first = self.chain(x, ('branch1x1', 192))
    joined = _join(
      first,
      self.chain(
        x,
        ('branch7x7_1', w),
        ('branch7x7_2', w, row),
        ('branch7x7_3', 192, column),
      ),
      self.chain(
        x,
        ('branch7x7dbl_1', w),
        ('branch7x7dbl_2', w, column),
        ('branch7x7dbl_3', w, row),
        ('branch7x7dbl_4', w, column),
        ('branch7x7dbl_5', 192, row),
      ),
      self.chain(_average(x), ('branch_pool', 192)),
    )
    return joined, first


class BlockD(_Block):
  """17x17 to 8x8."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return _join(
      self.chain(
        x, ('branch3x3_1', 192), ('branch3x3_2', 320, (3, 3), 2, False)
      ),
      self.chain(
        x,
        ('branch7x7x3_1', 192),
        ('branch7x7x3_2', 192, (1, 7)),
        ('branch7x7x3_3', 192, (7, 1)),
        ('branch7x7x3_4', 192, (3, 3), 2, False),
      ),
      _max(x, 2, 'VALID'),
    )


class BlockE(_Block):
  """8x8: branches that end in a row and a column; a pool of either kind."""

  pool: Callable[[Array], Array]

  @nn.compact
  def __call__(self, x: Array) -> Array:
    fork = lambda x, stem: _join(
      self.chain(x, (f'{stem}a', 384, (1, 3))),
      self.chain(x, (f'{stem}b', 384, (3, 1))),
    )
    short = self.chain(x, ('branch3x3_1', 384))
    long = self.chain(
      x, ('branch3x3dbl_1', 448), ('branch3x3dbl_2', 384, (3, 3))
    )
    return _join(
      self.chain(x, ('branch1x1', 320)),
      fork(short, 'branch3x3_2'),
      fork(long, 'branch3x3dbl_3'),
      self.chain(self.pool(x), ('branch_pool', 192)),
    )


class Inception(nn.Module):
  """images [B 299 299 3] in 0..255 -> features of three kinds.

  'pool' [B 2048]: of FID, KID, precision and recall; 'logits' [B 1008]:
  without the bias, of IS; 'spatial' [B 2023]: seven channels of a 17x17 layer
  (mixed_6/conv), of sFID.
  """

  @nn.compact
  def __call__(self, images: Array) -> dict[str, Array]:
    x = (images - 128) / 128
    x = Conv(32, (3, 3), 2, False, name='Conv2d_1a_3x3')(x)  # 149
    x = Conv(32, (3, 3), 1, False, name='Conv2d_2a_3x3')(x)  # 147
    x = Conv(64, (3, 3), name='Conv2d_2b_3x3')(x)
    x = _max(x, 2, 'VALID')  # 73
    x = Conv(80, name='Conv2d_3b_1x1')(x)
    x = Conv(192, (3, 3), 1, False, name='Conv2d_4a_3x3')(x)  # 71
    x = _max(x, 2, 'VALID')  # 35
    x = BlockA(32, name='Mixed_5b')(x)
    x = BlockA(64, name='Mixed_5c')(x)
    x = BlockA(64, name='Mixed_5d')(x)
    x = BlockB(name='Mixed_6a')(x)  # 17
    x, _ = BlockC(128, name='Mixed_6b')(x)
    x, _ = BlockC(160, name='Mixed_6c')(x)
    x, first = BlockC(160, name='Mixed_6d')(x)
    x, _ = BlockC(192, name='Mixed_6e')(x)
    x = BlockD(name='Mixed_7a')(x)  # 8
    x = BlockE(_average, name='Mixed_7b')(x)
    x = BlockE(functools.partial(_max, stride=1), name='Mixed_7c')(x)
    pool = jnp.mean(x, axis=(1, 2))
    weights = self.param(
      'fc', nn.initializers.lecun_normal(), (pool.shape[-1], 1008)
    )
    return {
      'pool': pool,
      'logits': pool @ weights,
      'spatial': first[..., :7].reshape(first.shape[0], -1),
    }


def _join(*branches: Array) -> Array:
  return jnp.concatenate(branches, axis=-1)


def _average(x: Array) -> Array:
  return nn.avg_pool(x, (3, 3), (1, 1), 'SAME', count_include_pad=False)


def _max(x: Array, stride: int, padding: str = 'SAME') -> Array:
  return nn.max_pool(x, (3, 3), (stride, stride), padding)


def shapes() -> Shapes:
  """The parameters' shapes, as a nested dict."""
  image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
  tree = jax.eval_shape(Inception().init, jax.random.key(0), image)
  return jax.tree.map(lambda x: x.shape, tree['params'])


def params_from_arrays(
  arrays: Mapping[str, np.ndarray], source: str = 'the given arrays'
) -> Params:
  """Parameters from torch's names and layouts; others are ignored.

  Raises:
    UserError: naming what is missing, misshapen or not finite.
  """
  theirs = {
    'kernel': ('conv.weight', (2, 3, 1, 0)),  # OIHW -> HWIO
    'scale': ('bn.weight', None),
    'bias': ('bn.bias', None),
    'mean': ('bn.running_mean', None),
    'var': ('bn.running_var', None),
  }

  def name_of(path):
    if path == ('fc',):
      return 'fc.weight', (1, 0)
    name, order = theirs[path[-1]]
    return '.'.join((*path[:-1], name)), order

  return checked(arrays, shapes(), name_of, f'{source} does not hold', NEEDED)


def load(path: str | None, read: Callable[[str], Mapping]) -> Network:
  """The network with the weights of a file.

  Args:
    path: a .pth, .safetensors or .npz with torch's names, or the graph's .pb.
    read: reads such a file, but .npz, into arrays by name.

  Raises:
    UserError: no path, or a file that does not hold the network.
  """
  arrays, digest = read_checked(path, read, '--inception', NEEDED)
  if inception_graph.is_graph(arrays):
    arrays = inception_graph.to_torch(arrays)
  params = params_from_arrays(arrays, str(path))
  apply = lambda params, x: Inception().apply({'params': params}, x)
  about = {
    'file': str(path),
    'sha256': digest,
    'is_the_published_file': digest.startswith('6726825d'),
  }
  return Network('Inception-v3 (2015)', params, apply, SIZE, about)
