"""VGG-16, in whose features nearest neighbours are found (paper, Fig. 32-34).

torchvision's network and file: pixels normalised by ImageNet's statistics,
read after the second hidden layer's ReLU.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.evaluation.features import Network
from ldm_jax.evaluation.weights import Shapes, checked, read_checked
from ldm_jax.first_stage.lpips import SLICES
from ldm_jax.types import Array, Params

SIZE = 224
NEEDED = (
  'vgg16-397923af.pth (torchvision; its sha256 begins with 397923af), as '
  '.pth, .safetensors or .npz'
)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGG16(nn.Module):
  """images [B 224 224 3] in 0..255 -> {'pool': [B 4096]}."""

  @nn.compact
  def __call__(self, images: Array) -> dict[str, Array]:
    x = (images / 255 - jnp.array(_MEAN)) / jnp.array(_STD)
    for convs in SLICES:
      for index, width in convs:
        x = nn.relu(nn.Conv(width, (3, 3), name=f'features_{index}')(x))
      x = nn.max_pool(x, (2, 2), (2, 2))
    # The file's columns are in the order of channels, rows, columns.
    x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
    for index in (0, 3):
      x = nn.relu(nn.Dense(4096, name=f'classifier_{index}')(x))
    return {'pool': x}


def shapes() -> Shapes:
  """The parameters' shapes, as a nested dict."""
  image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
  tree = jax.eval_shape(VGG16().init, jax.random.key(0), image)
  return jax.tree.map(lambda x: x.shape, tree['params'])


def params_from_arrays(
  arrays: Mapping[str, np.ndarray], source: str = 'the given arrays'
) -> Params:
  """Parameters from torchvision's names and layouts; others are ignored."""

  def name_of(path):
    layer, kind = path
    order = (2, 3, 1, 0) if layer.startswith('features') else (1, 0)
    name = layer.replace('_', '.')
    if kind == 'bias':
      return f'{name}.bias', None
    return f'{name}.weight', order

  return checked(arrays, shapes(), name_of, f'{source} does not hold', NEEDED)


def load(path: str | None, read: Callable[[str], Mapping]) -> Network:
  """The network with a file's weights; UserError where it does not hold it."""
  arrays, digest = read_checked(path, read, '--vgg', NEEDED)
  params = params_from_arrays(arrays, str(path))
  about = {'file': str(path), 'sha256': digest}
  apply = lambda params, x: VGG16().apply({'params': params}, x)
  return Network('VGG-16', params, apply, SIZE, about)
