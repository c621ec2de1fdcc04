"""Layouts: one image or many, boxes or tokens, and the crop they stand in."""

import jax
import numpy as np
import pytest

from ldm_jax.data import images
from ldm_jax.tasks.layout import Layout, Prepare
from ldm_jax.types import UserError

BOXES = np.float32([[0.1, 0.2, 0.7, 1.0], [0.0, 0.0, 0.5, 0.5]])
LABELS = np.int32([5, 6])


def objects(tokens):
  """The set of (class, corner, corner) among tokens."""
  triples = np.asarray(tokens)[:90].reshape(-1, 3)
  return {tuple(t) for t in triples.tolist() if t[0] != 8191}


def test_one_layout_and_a_batch_of_it_agree():
  one = Prepare().arrays({'boxes': BOXES, 'box_labels': LABELS})['tokens']
  assert one.shape == (92,)
  padded = np.int32([[5, 6, -1], [6, -1, -1]])
  boxes = np.zeros((2, 3, 4), np.float32)
  boxes[0, :2], boxes[1, 0] = BOXES, BOXES[1]
  batch = Prepare().arrays({'boxes': boxes, 'box_labels': padded})['tokens']
  np.testing.assert_array_equal(batch[0], one)
  ragged = Prepare().arrays(
    {'boxes': [BOXES, BOXES[1:]], 'box_labels': [[5, 6], [6]]}
  )['tokens']
  np.testing.assert_array_equal(ragged, batch)
  again = Prepare().arrays({'tokens': batch})['tokens']
  np.testing.assert_array_equal(again, batch)


def test_no_objects_is_a_layout_too():
  tokens = Prepare().arrays({'boxes': [], 'box_labels': []})['tokens']
  assert not objects(tokens) and tokens[-1] == 90 * 89 + 89


def test_training_shuffles_objects_and_keeps_them_all():
  example = {'image': 0, 'boxes': BOXES, 'box_labels': LABELS}
  rng = np.random.default_rng(0)
  found = [Prepare()(example, rng)['tokens'] for _ in range(20)]
  assert {tokens[0] for tokens in found} == {5, 6}
  assert len({frozenset(objects(tokens)) for tokens in found}) == 1


def test_boxes_are_told_in_the_whole_image_of_a_crop():
  crop = np.float32([0.25, 0, 0.75, 1])
  example = {
    'image': 0,
    'boxes': np.float32([[0.1, 0.3, 0.5, 1]]),
    'box_labels': LABELS[:1],
    'crop': crop,
  }
  prepare = Prepare()
  tokens = prepare(example, np.random.default_rng(0))['tokens']
  boxes, _, found = prepare.tokens.decode(tokens)
  np.testing.assert_allclose(boxes, example['boxes'], atol=0.5 / 89 + 1e-6)
  np.testing.assert_allclose(found, crop, atol=0.5 / 89 + 1e-6)
  # Without the crop they are told as it cuts them.
  prepare = Prepare(crop_tokens=False)
  tokens = prepare(example, np.random.default_rng(0))['tokens']
  boxes, _, _ = prepare.tokens.decode(tokens)
  shown = [[0, 0.3, 0.5, 1]]
  np.testing.assert_allclose(boxes, shown, atol=0.5 / 89 + 1e-6)


@pytest.mark.parametrize('flip', [False, True])
def test_a_crop_hides_boxes_and_cuts_none(flip):
  example = {
    'image': np.zeros((10, 20, 3), np.uint8),
    'boxes': np.float32([[0, 0, 0.5, 1], [0.8, 0, 1, 1]]),
    'box_labels': LABELS,
  }
  cropped = images.crop(example, 10, flip=flip)
  prepare = Prepare()
  tokens = prepare(cropped, np.random.default_rng(0))['tokens']
  boxes, labels, crop = prepare.tokens.decode(tokens)
  assert labels.tolist() == [5]
  told = [[0.5, 0, 1, 1]] if flip else [[0, 0, 0.5, 1]]
  np.testing.assert_allclose(boxes, told, atol=0.5 / 89 + 1e-6)
  np.testing.assert_allclose(crop, [0.25, 0, 0.75, 1], atol=0.5 / 89 + 1e-6)


@pytest.mark.parametrize(
  'inputs, message',
  [
    ({'boxes': BOXES}, 'box_labels is missing'),
    ({'boxes': BOXES, 'box_labels': [1]}, 'for 1 box_labels'),
    ({'boxes': BOXES + 0.5, 'box_labels': LABELS}, 'outside the image'),
    ({'boxes': BOXES[:, ::-1], 'box_labels': LABELS}, 'turned over'),
    ({'boxes': BOXES, 'box_labels': [1, 9000]}, '9000.*0 to 8190'),
    ({'tokens': np.full(92, 8192)}, 'ids 0 to 8191'),
    ({'tokens': np.zeros(93, int)}, 'at most 92'),
    ({'boxes': [BOXES], 'box_labels': [LABELS, LABELS]}, '1 lists of boxes'),
  ],
)
def test_bad_layouts_are_one_clear_line(inputs, message):
  with pytest.raises(UserError, match=message):
    Prepare().arrays(inputs)


def test_the_number_of_classes_bounds_the_labels():
  with pytest.raises(UserError, match='0 to 5 .task.num_classes'):
    Prepare(num_classes=6).arrays({'boxes': BOXES, 'box_labels': LABELS})


def test_the_null_is_no_layout_that_boxes_can_make():
  conditioner = Layout(width=64, depth=1)
  batch = {
    'tokens': np.stack(
      [Prepare().arrays({'boxes': [], 'box_labels': []})['tokens']] * 2
    )
  }
  null = conditioner.null(batch)
  assert (null['tokens'] == 8191).all()
  init = lambda: conditioner.init(jax.random.key(0), batch, None, False)
  variables = jax.jit(init)()
  tell = jax.jit(lambda b: conditioner.apply(variables, b, None, False).context)
  assert tell(batch).shape == (2, 92, 64)
  assert np.abs(tell(batch) - tell(null)).max() > 1e-3


def test_the_picture_has_the_boxes_where_the_crop_shows_them():
  prepare = Prepare()
  example = {
    'image': 0,
    'boxes': np.float32([[0.5, 0, 1, 1]]),
    'box_labels': LABELS[:1],
    'crop': np.float32([0.25, 0, 0.75, 1]),
  }
  tokens = prepare(example, np.random.default_rng(0))['tokens']
  shown = prepare.show({'tokens': tokens[None]}, (64, 64))[0]
  used = np.flatnonzero((shown != 255).any(axis=(0, 2)))
  assert used[0] in (31, 32, 33) and used[-1] == 63
