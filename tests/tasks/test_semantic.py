"""The map of classes: one-hot, halved, mixed; and what is no class."""

import jax
import numpy as np
import pytest

from ldm_jax.tasks import semantic
from ldm_jax.tasks.semantic import Prepare, Semantic
from ldm_jax.types import UserError

CLASSES = np.random.default_rng(0).integers(-1, 7, (2, 16, 24))
KERNEL = np.random.default_rng(1).normal(size=(1, 1, 7, 3))


def concat(classes, kernel=KERNEL, stages=2):
  variables = {'params': {'channel_mapper': {'kernel': kernel}}}
  module = Semantic(num_classes=kernel.shape[2], stages=stages)
  return module.apply(variables, {'segmentation': classes}, None, False).concat


def test_it_is_the_mean_over_blocks_of_one_hot_vectors_times_the_kernel():
  one_hot = np.eye(8)[CLASSES][..., :7]  # -1 is the last row: no class.
  means = one_hot.reshape(2, 4, 4, 6, 4, 7).mean(axis=(2, 4))
  np.testing.assert_allclose(concat(CLASSES), means @ KERNEL[0, 0], atol=1e-6)


def test_odd_sides_lose_their_last_row_as_in_torch():
  found = concat(CLASSES[:, :15], stages=1)
  np.testing.assert_array_equal(found, concat(CLASSES[:, :14], stages=1))


def test_the_released_rescaler_has_546_parameters():
  batch = {'segmentation': np.zeros((1, 8, 8), np.int32)}
  params = jax.eval_shape(
    lambda: Semantic(182).init(jax.random.key(0), batch, None, False)
  )
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 546


def test_the_null_has_no_class_and_gradients_reach_the_kernel():
  null = Semantic(7).null({'segmentation': CLASSES})
  assert not np.any(concat(null['segmentation']))
  classes = np.where(CLASSES == 3, 2, CLASSES)
  grads = jax.grad(lambda kernel: (concat(classes, kernel) ** 2).sum())(KERNEL)
  norms = np.abs(np.asarray(grads)).sum(axis=(0, 1, 3))
  assert norms[3] == 0 and (np.delete(norms, 3) > 0).all()


def test_ignored_pixels_become_no_class():
  given = np.array([[0, 255], [6, -1]])
  found = Prepare(7).arrays({'segmentation': given})['segmentation']
  assert found.tolist() == [[0, -1], [6, -1]] and found.dtype == np.int32
  found = Prepare(7, ignore_index=0).arrays({'segmentation': [[0, 6]]})
  assert found['segmentation'].tolist() == [[-1, 6]]
  # With more than 255 classes, 255 is one of them.
  found = Prepare(300).arrays({'segmentation': given})['segmentation']
  assert found[0, 1] == 255


@pytest.mark.parametrize(
  'given, message',
  [
    ([[7]], 'class 7; allowed are 0 to 6'),
    ([[-2]], 'class -2'),
    ([[0.5]], 'whole numbers'),
    ([0], 'shape'),
  ],
)
def test_bad_maps_are_one_clear_line(given, message):
  with pytest.raises(UserError, match=message):
    Prepare(7).arrays({'segmentation': np.array(given)})
  with pytest.raises(UserError, match='give a segmentation'):
    Prepare(7).arrays({})


def test_training_keeps_image_and_map():
  example = {'image': 'image', 'segmentation': CLASSES[0], 'text': 'x'}
  found = Prepare(7)(example, np.random.default_rng(0))
  assert set(found) == {'image', 'segmentation'}
  assert Prepare(7).size_of(found) == (16, 24)
  assert semantic.NOTHING == -1
