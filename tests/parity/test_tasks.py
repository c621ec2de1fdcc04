"""The conditioners without a transformer, against torch's own operations."""

import numpy as np
import pytest

from ldm_jax.tasks.inpainting import Inpainting
from ldm_jax.tasks.semantic import Semantic

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.parity


@pytest.mark.parametrize('size', [(16, 24), (18, 22)])
def test_the_rescaler_of_semantic_maps(size):
  rng = np.random.default_rng(0)
  classes = rng.integers(0, 182, (2, *size))
  kernel = rng.normal(size=(1, 1, 182, 3)).astype(np.float32)
  x = torch.nn.functional.one_hot(torch.tensor(classes), 182)
  x = x.permute(0, 3, 1, 2).float()
  for _ in range(2):
    x = torch.nn.functional.interpolate(x, scale_factor=0.5, mode='bilinear')
  weight = torch.tensor(kernel).permute(3, 2, 0, 1)
  expected = torch.nn.functional.conv2d(x, weight).permute(0, 2, 3, 1).numpy()
  variables = {'params': {'channel_mapper': {'kernel': kernel}}}
  found = (
    Semantic(182)
    .apply(variables, {'segmentation': classes}, None, False)
    .concat
  )
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('h, w', [(8, 8), (4, 16), (5, 7)])
def test_the_mask_of_inpainting(h, w):
  rng = np.random.default_rng(0)
  mask = (rng.random((2, 32, 32, 1)) > 0.5).astype(np.float32)
  image = rng.uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
  expected = torch.nn.functional.interpolate(
    torch.tensor(2 * mask - 1).permute(0, 3, 1, 2), size=(h, w)
  )
  encode = lambda image: np.zeros((2, h, w, 3), np.float32)
  found = Inpainting().apply({}, {'image': image, 'mask': mask}, encode, False)
  np.testing.assert_array_equal(
    found.concat[..., 3:], expected.permute(0, 2, 3, 1).numpy()
  )
