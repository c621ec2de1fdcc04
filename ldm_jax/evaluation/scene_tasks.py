"""Whether samples obey layouts, maps, small images and holes of scenes.

The reader of `scenes` looks at pixels alone; see data/scene_reader.py.
"""

from collections.abc import Sequence

import numpy as np

from ldm_jax.data import scene_reader, scenes


def layout_scores(
  images: np.ndarray,
  boxes: Sequence[np.ndarray],
  labels: Sequence[np.ndarray],
) -> dict[str, float]:
  """How images [N H W 3] uint8 fill boxes [K 4] of classes [K], per image.

  Each box takes what the reader finds that overlaps it most. `iou` is the mean
  over boxes, nothing found counting 0; `class` the share of boxes whose thing
  has the class asked for.
  """
  overlaps, right = [], []
  for image, wanted, classes in zip(images, boxes, labels, strict=True):
    found = scene_reader.read(image)
    for box, label in zip(wanted, classes, strict=True):
      if label < 0:  # Padding.
        continue
      scored = [(box_iou(box, box_of(seen.mask)), seen) for seen in found]
      best, seen = max(scored, key=lambda s: s[0], default=(0.0, None))
      overlaps.append(best)
      right.append(
        best > 0
        and seen.shape in scenes.SHAPES
        and scenes.label_of(seen.thing) == label
      )
  return {'iou': float(np.mean(overlaps)), 'class': float(np.mean(right))}


def box_of(mask: np.ndarray) -> np.ndarray:
  """The tight box x0 y0 x1 y1, in shares of the sides, of a mask [H W]."""
  ys, xs = np.nonzero(mask)
  height, width = mask.shape
  corners = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
  return np.array(corners) / [width, height, width, height]


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
  """Intersection over union of two boxes x0 y0 x1 y1."""
  sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
  shared = np.prod(np.maximum(sides, 0))
  area = lambda box: np.prod(np.asarray(box[2:]) - box[:2])
  union = area(a) + area(b) - shared
  return float(shared / union) if union > 0 else 0.0


def segmentation_scores(
  images: np.ndarray, maps: np.ndarray
) -> dict[str, float]:
  """How images [N H W 3] uint8 fit maps [N H W], by the reader's own maps.

  `miou` is the mean, over the classes that appear in either, of intersection
  over union, all pixels of all images counted together.
  """
  read = np.stack([scene_reader.segment(image) for image in images])
  classes = np.union1d(np.unique(read), np.unique(maps))
  per_class = [
    np.sum((read == k) & (maps == k)) / np.sum((read == k) | (maps == k))
    for k in classes
  ]
  return {'miou': float(np.mean(per_class)), 'classes': len(classes)}
