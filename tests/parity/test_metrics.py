"""Feature networks against torch, built here from the files' names alone."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip('torch')

import jax  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from ldm_jax.evaluation import features, inception, resize, vgg  # noqa: E402
from tests.evaluation import released  # noqa: E402

pytestmark = pytest.mark.parity
TOLERANCE = 1e-4


def images(count, height, width):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, height, width, 3), np.uint8)


def relative(ours, theirs):
  theirs = theirs.numpy()
  return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def resized(x, size):
  """TensorFlow 1's bilinear, as one sample grid of torch's.

  align_corners maps -1 and 1 to the outer pixels' centres, so that a place in
  pixels is a linear function of the grid; 'border' clamps at the last.
  """
  height, width = x.shape[-2:]
  at = lambda n: torch.arange(size, dtype=torch.float64) * n / size
  to_grid = lambda place, n: 2 * place / (n - 1) - 1
  y, x_ = torch.meshgrid(
    to_grid(at(height), height), to_grid(at(width), width), indexing='ij'
  )
  grid = torch.stack([x_, y], -1)[None].expand(len(x), -1, -1, -1)
  return F.grid_sample(
    x.double(), grid, padding_mode='border', align_corners=True
  )


def torch_inception(arrays, pixels):
  """uint8 [B 3 H W] -> (pool, logits without bias, spatial), float64."""
  w = {k: torch.from_numpy(np.asarray(v)).double() for k, v in arrays.items()}

  def conv(x, name, stride=1, pad=True):
    kernel = w[f'{name}.conv.weight']
    padding = [n // 2 if pad else 0 for n in kernel.shape[2:]]
    x = F.conv2d(x, kernel, stride=stride, padding=padding)
    stats = [w[f'{name}.bn.{s}'] for s in ('running_mean', 'running_var')]
    affine = [w[f'{name}.bn.{s}'] for s in ('weight', 'bias')]
    return F.relu(F.batch_norm(x, *stats, *affine, eps=1e-3))

  def chain(x, block, *names, last=1):
    for name in names:
      final = name == names[-1] and last == 2
      x = conv(x, f'{block}.{name}', 2 if final else 1, not final)
    return x

  def average(x):
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

  shrink = functools.partial(F.max_pool2d, kernel_size=3, stride=2)
  x = (resized(pixels, 299) - 128) / 128
  x = conv(x, 'Conv2d_1a_3x3', 2, False)
  x = conv(x, 'Conv2d_2a_3x3', 1, False)
  x = shrink(conv(x, 'Conv2d_2b_3x3'))
  x = conv(conv(x, 'Conv2d_3b_1x1'), 'Conv2d_4a_3x3', 1, False)
  x = shrink(x)
  for b in ('Mixed_5b', 'Mixed_5c', 'Mixed_5d'):
    x = torch.cat([
      chain(x, b, 'branch1x1'),
      chain(x, b, 'branch5x5_1', 'branch5x5_2'),
      chain(x, b, *(f'branch3x3dbl_{i}' for i in (1, 2, 3))),
      chain(average(x), b, 'branch_pool'),
    ], 1)  # fmt: skip
  b = 'Mixed_6a'
  x = torch.cat([
    chain(x, b, 'branch3x3', last=2),
    chain(x, b, *(f'branch3x3dbl_{i}' for i in (1, 2, 3)), last=2),
    shrink(x),
  ], 1)  # fmt: skip
  for b in ('Mixed_6b', 'Mixed_6c', 'Mixed_6d', 'Mixed_6e'):
    first = chain(x, b, 'branch1x1')
    if b == 'Mixed_6d':
      spatial = first[:, :7].permute(0, 2, 3, 1).flatten(1)
    x = torch.cat([
      first,
      chain(x, b, *(f'branch7x7_{i}' for i in (1, 2, 3))),
      chain(x, b, *(f'branch7x7dbl_{i}' for i in (1, 2, 3, 4, 5))),
      chain(average(x), b, 'branch_pool'),
    ], 1)  # fmt: skip
  b = 'Mixed_7a'
  x = torch.cat([
    chain(x, b, 'branch3x3_1', 'branch3x3_2', last=2),
    chain(x, b, *(f'branch7x7x3_{i}' for i in (1, 2, 3, 4)), last=2),
    shrink(x),
  ], 1)  # fmt: skip
  for b in ('Mixed_7b', 'Mixed_7c'):
    short = chain(x, b, 'branch3x3_1')
    long = chain(x, b, 'branch3x3dbl_1', 'branch3x3dbl_2')
    pooled = average(x) if b == 'Mixed_7b' else F.max_pool2d(x, 3, 1, 1)
    x = torch.cat([
      chain(x, b, 'branch1x1'),
      *(chain(short, b, f'branch3x3_2{i}') for i in 'ab'),
      *(chain(long, b, f'branch3x3dbl_3{i}') for i in 'ab'),
      chain(pooled, b, 'branch_pool'),
    ], 1)  # fmt: skip
  pool = x.mean((2, 3))
  return {'pool': pool, 'logits': pool @ w['fc.weight'].T, 'spatial': spatial}


def nchw(x):
  return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize('size', [(32, 32), (310, 256), (512, 400)])
def test_the_resize_is_torchs_sample_grid(size):
  x = images(1, *size)
  ours = resize.bilinear_tf1(x, (299, 299))
  theirs = resized(nchw(x), 299).permute(0, 2, 3, 1)
  np.testing.assert_allclose(ours, theirs, atol=0.02)  # Of 255, in float32.
  assert relative(ours, theirs) < TOLERANCE


def test_inception_is_torchs(tmp_path):
  arrays = released.inception()
  torch.save(
    {k: torch.from_numpy(np.asarray(v)) for k, v in arrays.items()},
    tmp_path / 'inception.pth',
  )
  from ldm_jax.interop import files

  network = inception.load(str(tmp_path / 'inception.pth'), files.read_tensors)
  x = images(2, 40, 64)
  with torch.no_grad():
    theirs = torch_inception(arrays, nchw(x))
  ours = features.extract(network, [x])
  for name in theirs:
    assert relative(ours[name], theirs[name]) < TOLERANCE, name


def test_vgg16_is_torchs():
  arrays = released.vgg16()
  w = {k: torch.from_numpy(v) for k, v in arrays.items()}
  params = vgg.params_from_arrays(arrays)
  x = images(1, 224, 224)
  ours = jax.jit(vgg.VGG16().apply)({'params': params}, x.astype(np.float32))
  h = nchw(x) / 255
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  per_channel = lambda v: torch.tensor(v)[:, None, None]
  h = (h - per_channel(mean)) / per_channel(std)
  pools = (4, 9, 16, 23, 30)  # torchvision's positions in `features`
  with torch.no_grad():
    for i in range(31):
      if i in pools:
        h = F.max_pool2d(h, 2)
      elif f'features.{i}.weight' in w:
        layer = w[f'features.{i}.weight'], w[f'features.{i}.bias']
        h = F.relu(F.conv2d(h, *layer, padding=1))
    h = h.flatten(1)
    for i in (0, 3):
      layer = w[f'classifier.{i}.weight'], w[f'classifier.{i}.bias']
      h = F.relu(F.linear(h, *layer))
  assert relative(ours['pool'], h) < TOLERANCE
