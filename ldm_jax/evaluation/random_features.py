"""A random network, for distances where Inception's weights are not at hand.

Fixed, never trained: its Fréchet distance tells better from worse among
images of one size, and is comparable with nothing else. It is not FID.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.evaluation.features import Network
from ldm_jax.types import Array, Params, UserError

_SEED = 2022
_LAYERS = ((3, 64, 1), (64, 64, 2), (64, 128, 2))  # in, out, stride
_SMALLEST = 11  # Pixels; of fewer the layers leave nothing.

NAME = 'random-feature network'


def network() -> Network:
  """{'pool': [B 256]}: each layer's means over the image."""
  rng = np.random.default_rng(_SEED)
  params = {}
  for i, (before, width, _) in enumerate(_LAYERS):
    kernel = rng.standard_normal((3, 3, before, width), np.float32)
    params[f'conv_{i}'] = {
      'kernel': kernel * np.float32((2 / (9 * before)) ** 0.5),
      'bias': 0.1 * rng.standard_normal(width, np.float32),
    }
  about = {'seed': _SEED, 'layers': _LAYERS, 'features': 256}
  return Network(NAME, params, _apply, about=about)


def _apply(params: Params, images: Array) -> dict[str, Array]:
  if min(images.shape[1:3]) < _SMALLEST:
    raise UserError(
      f'The {NAME} needs images of {_SMALLEST} pixels or more; these are '
      f'{images.shape[2]}x{images.shape[1]}.'
    )
  x, means = images / 127.5 - 1, []
  for i, (_, _, stride) in enumerate(_LAYERS):
    layer = params[f'conv_{i}']
    x = jax.lax.conv_general_dilated(
      x,
      layer['kernel'],
      (stride, stride),
      'VALID',  # Zeros at the border would be features of the size.
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    x = jax.nn.relu(x + layer['bias'])
    means.append(jnp.mean(x, axis=(1, 2)))
  return {'pool': jnp.concatenate(means, axis=1)}
