"""Scores of layouts and maps on real scenes, moved and recoloured ones."""

import numpy as np
import pytest

from ldm_jax.data.scenes import Scenes
from ldm_jax.evaluation import scene_tasks


@pytest.fixture(scope='module')
def real():
  source = Scenes(200, split='validation')
  examples = [source[i] for i in range(24)]
  return {key: [e[key] for e in examples] for key in examples[0]}


def test_real_scenes_fill_their_boxes(real):
  found = scene_tasks.layout_scores(
    real['image'], real['boxes'], real['box_labels']
  )
  assert found['class'] == 1.0 and found['iou'] > 0.85


def test_boxes_of_other_scenes_are_not_filled(real):
  turned = real['boxes'][1:] + real['boxes'][:1]
  labels = real['box_labels'][1:] + real['box_labels'][:1]
  found = scene_tasks.layout_scores(real['image'], turned, labels)
  assert found['class'] < 0.2 and found['iou'] < 0.6


def test_an_empty_image_scores_nothing(real):
  grey = np.full_like(real['image'], 128)
  found = scene_tasks.layout_scores(grey, real['boxes'], real['box_labels'])
  assert found == {'iou': 0.0, 'class': 0.0}


def test_padding_is_no_box(real):
  padded = [np.concatenate([b, np.zeros((2, 4))]) for b in real['boxes']]
  labels = [np.concatenate([k, [-1, -1]]) for k in real['box_labels']]
  found = scene_tasks.layout_scores(real['image'], padded, labels)
  wanted = scene_tasks.layout_scores(
    real['image'], real['boxes'], real['box_labels']
  )
  assert found == pytest.approx(wanted, abs=1e-6)


def test_iou_of_boxes():
  a = np.array([0, 0, 0.5, 0.5])
  assert scene_tasks.box_iou(a, a) == 1
  assert scene_tasks.box_iou(a, a + 0.5) == 0
  assert scene_tasks.box_iou(a, np.array([0.25, 0, 0.75, 0.5])) == (
    pytest.approx(1 / 3)
  )


def test_the_box_of_a_mask():
  mask = np.zeros((8, 4), bool)
  mask[2:4, 1:4] = True
  np.testing.assert_array_equal(
    scene_tasks.box_of(mask), [0.25, 0.25, 1.0, 0.5]
  )


def test_maps_of_real_scenes_and_of_others(real):
  maps = np.stack(real['segmentation'])
  images = np.stack(real['image'])
  assert scene_tasks.segmentation_scores(images, maps)['miou'] > 0.85
  assert scene_tasks.segmentation_scores(images[::-1], maps)['miou'] < 0.2
