"""Random weights under the names and in the shapes of published files."""

import json
import pathlib

import numpy as np

SHAPES = json.loads(
  pathlib.Path(__file__).with_name('released_shapes.json').read_text()
)


def inception(seed=0) -> dict[str, np.ndarray]:
  """Convolutions, their normalisation and the last layer, as in the .pth."""
  rng, arrays = np.random.default_rng(seed), {}
  for name, shape in SHAPES['inception_fid'].items():
    arrays[name] = _weight(rng, shape)
    if '.conv.' in name:
      bn, width = name.removesuffix('conv.weight') + 'bn.', shape[:1]
      arrays[bn + 'weight'] = rng.uniform(0.5, 1.5, width).astype(np.float32)
      arrays[bn + 'bias'] = 0.1 * rng.standard_normal(width, np.float32)
      arrays[bn + 'running_mean'] = 0.1 * rng.standard_normal(width, np.float32)
      arrays[bn + 'running_var'] = rng.uniform(0.5, 1.5, width).astype('f4')
      arrays[bn + 'num_batches_tracked'] = np.int64(0)
  return arrays


def vgg16(seed=0) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  return {n: _weight(rng, s) for n, s in SHAPES['vgg16_torchvision'].items()}


def lpips(seed=0) -> dict[str, np.ndarray]:
  """VGG-16's convolutions and the linear heads, which are not negative."""
  rng = np.random.default_rng(seed)
  features = {
    n: _weight(rng, shape)
    for n, shape in SHAPES['vgg16_torchvision'].items()
    if n.startswith('features')
  }
  heads = SHAPES['lpips_lin_v0_1'].items()
  return features | {n: np.abs(_weight(rng, shape)) for n, shape in heads}


def _weight(rng, shape):
  """Of a size that keeps activations' own through a ReLU."""
  fan_in = np.prod(shape[1:]) if len(shape) > 1 else 100
  draw = rng.standard_normal(shape, np.float32)
  return draw * np.float32((2 / fan_in) ** 0.5)
