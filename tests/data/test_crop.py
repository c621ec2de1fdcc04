"""The crop that training sees, and the labels that follow it."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import images


def picture(height: int, width: int) -> np.ndarray:
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def labelled(height, width) -> dict:
  """A bright box at pixels 10..20 x 4..12, known to every kind of label."""
  image = np.zeros((height, width, 3), np.uint8)
  classes = np.zeros((height, width), np.int32)
  image[4:12, 10:20], classes[4:12, 10:20] = 255, 7
  box = [10 / width, 4 / height, 20 / width, 12 / height]
  return {
    'image': image,
    'segmentation': classes,
    'boxes': np.float32([box, [0.9, 0.0, 1.0, 1.0]]),
    'box_labels': np.int32([7, 9]),
    'text': 'kept',
  }


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('size', [24, 48, 12])
@pytest.mark.parametrize('place', [(0.5, 0.0), (0.5, 0.25)])
def test_labels_follow_the_image(size, flip, place):
  result = images.crop(labelled(24, 48), size, place=place, flip=flip)
  assert result['image'].shape == (size, size, 3)
  assert result['segmentation'].shape == (size, size)
  assert result['text'] == 'kept'
  assert result['box_labels'].tolist() == [7]  # The other box is outside.
  shown = images.in_crop(result['boxes'], result['crop'])
  x0, y0, x1, y1 = np.rint(shown[0] * size).astype(int)
  inside = np.zeros((size, size), bool)
  inside[y0:y1, x0:x1] = True
  # Where the edges do not fall between pixels a border pixel may differ.
  slack = 0 if size >= 24 else 8
  assert (inside != (result['segmentation'] == 7)).sum() <= slack
  bright = result['image'][..., 0] > 127
  assert (inside != bright).sum() <= slack


@pytest.mark.parametrize('flip', [False, True])
def test_a_box_stays_whole_and_is_dropped_where_none_of_it_is_seen(flip):
  example = {
    'image': np.zeros((10, 20, 3), np.uint8),
    'boxes': np.float32([[0, 0.2, 0.5, 0.4], [0, 0, 0.25, 1], [0.7, 0, 1, 1]]),
    'box_labels': np.int32([4, 5, 6]),
  }
  result = images.crop(example, 10, flip=flip)  # Pixels 5 to 15.
  whole, shown = [[0, 0.2, 0.5, 0.4], [0.7, 0, 1, 1]], [[0, 0.2, 0.5, 0.4]]
  shown.append([0.9, 0, 1, 1])
  if flip:
    mirrored = lambda boxes: [[1 - c, b, 1 - a, d] for a, b, c, d in boxes]
    whole, shown = mirrored(whole), mirrored(shown)
  assert result['box_labels'].tolist() == [4, 6]
  np.testing.assert_allclose(result['boxes'], whole, atol=1e-6)
  found = images.in_crop(result['boxes'], result['crop'])
  np.testing.assert_allclose(found, shown, atol=1e-6)


@pytest.mark.parametrize(
  'height, resize, share, side',
  [
    (48, 0, 1.0, 48),  # All of the shorter side.
    (48, 36, 1.0, 16),  # 12 of 36 pixels.
    (18, 36, 1.0, 6),  # Enlarged.
    (48, -1, 1.0, 12),  # As stored.
    (9, -1, 1.0, 9),  # As stored, and too small.
    (48, 0, 0.5, 24),
    (1, 0, 0.5, 1),
  ],
)
def test_how_much_of_the_image_a_crop_takes(height, resize, share, side):
  example = {
    'image': picture(height, 2 * height),
    'boxes': np.zeros((0, 4)),
    'segmentation': np.zeros((height, 2 * height)),
  }
  options = dict(place=(0.5, 0.25), resize=resize, share=share)
  result = images.crop(example, 12, **options)
  assert result['image'].shape == (12, 12, 3)
  assert result['segmentation'].shape == (12, 12)
  top, left = (height - side) // 2, (2 * height - side) // 4
  seen = np.float32([left, top, left + side, top + side]) / height
  np.testing.assert_allclose(result['crop'] * [2, 1, 2, 1], seen, atol=1e-6)


def test_a_crop_as_stored_is_the_pixels_themselves():
  pixels = picture(24, 40)
  result = images.crop({'image': pixels}, 8, place=(0, 1), resize=-1)['image']
  np.testing.assert_array_equal(result, pixels[:8, 32:])


def test_resizing_to_more_than_the_crop_is_resizing_and_then_cropping():
  pixels = picture(48, 96)
  whole = Image.fromarray(pixels).resize((72, 36), Image.Resampling.LANCZOS)
  result = images.crop({'image': pixels}, 12, resize=36)['image']
  difference = result.astype(int) - np.asarray(whole)[12:24, 30:42]
  assert np.abs(difference).max() <= 1


def test_the_crop_of_its_own_size_changes_nothing():
  pixels = picture(16, 16)
  result = images.crop({'image': pixels}, 16)
  np.testing.assert_array_equal(result['image'], pixels)


def test_places_reach_both_ends():
  pixels = picture(8, 20)
  crop = lambda x: images.crop({'image': pixels}, 8, place=(0.5, x))['image']
  np.testing.assert_array_equal(crop(0.0), pixels[:, :8])
  np.testing.assert_array_equal(crop(0.5), pixels[:, 6:14])
  np.testing.assert_array_equal(crop(1.0), pixels[:, 12:])


@pytest.mark.parametrize('resample', ['lanczos', 'bicubic'])
def test_resize_then_crop_as_in_the_release(resample):
  pixels = picture(48, 96)
  method = images.RESAMPLE[resample]
  whole = np.asarray(Image.fromarray(pixels).resize((48, 24), method))
  result = images.crop({'image': pixels}, 24, resample=resample)['image']
  difference = result.astype(int) - whole[:, 12:36]
  assert np.abs(difference).max() <= 1


@pytest.mark.parametrize('resample', ['lanczos', 'bicubic'])
def test_a_fine_checkerboard_becomes_grey_not_moire(resample):
  board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
  image = np.stack([board] * 3, axis=-1)
  result = images.crop({'image': image}, 16, resample=resample)['image']
  assert np.abs(result.astype(int) - 127.5).max() < 12


@pytest.mark.parametrize('flip', [False, True])
def test_the_crop_says_where_in_the_whole_image_it_was(flip):
  example = {
    'image': picture(32, 64),
    'boxes': np.float32([[0.5, 0.25, 0.625, 0.5]]),
    'box_labels': np.int32([3]),
    'mask': np.arange(32 * 64).reshape(32, 64),
  }
  cropped = images.crop(example, 32, place=(0.5, 0.25), flip=flip)
  expected = [0.375, 0.25, 0.5, 0.5] if flip else [0.5, 0.25, 0.625, 0.5]
  np.testing.assert_allclose(cropped['boxes'][0], expected, atol=1e-6)
  place = [0.375, 0, 0.875, 1] if flip else [0.125, 0, 0.625, 1]
  np.testing.assert_allclose(cropped['crop'], place, atol=1e-6)
  columns = example['mask'][:, 8:40]
  np.testing.assert_array_equal(
    cropped['mask'], columns[:, ::-1] if flip else columns
  )
