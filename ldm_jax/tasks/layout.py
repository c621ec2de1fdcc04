"""Layout to image: a transformer reads boxes (Sec. 4.3.1, App. E.2.1)."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from ldm_jax.data import images, inputs, panels
from ldm_jax.data.box_tokens import WHOLE, BoxTokens
from ldm_jax.tasks.tokens import TokenConditioner
from ldm_jax.types import Batch, UserError

NO_LABEL = -1


@dataclasses.dataclass(frozen=True)
class Prepare:
  """Keeps the image and its boxes' tokens, in random order.

  `num_classes` bounds the classes where it is set. With `crop_tokens` whole
  boxes are told, and then the crop's corners; without, what the crop shows.
  """

  vocab_size: int = 8192
  length: int = 92
  crop_tokens: bool = True
  num_classes: int = 0  # 0: as many as the vocabulary has ids

  needs = ('boxes', 'box_labels')

  @functools.cached_property
  def tokens(self) -> BoxTokens:
    return BoxTokens(self.vocab_size, self.length, self.crop_tokens)

  def __call__(self, example: dict, rng: np.random.Generator) -> dict:
    boxes, labels = self._checked(example['boxes'], example['box_labels'])
    crop = np.asarray(example.get('crop', WHOLE), np.float64)
    if not self.crop_tokens:
      boxes = images.in_crop(boxes, crop)
    # The first ones, as released; then in random order.
    count = min(len(labels), self.tokens.max_objects)
    order = rng.permutation(count)
    tokens = self.tokens.encode(boxes[order], labels[order], crop)
    return {'image': example['image'], 'tokens': tokens}

  def arrays(self, given: dict) -> dict:
    """boxes and box_labels, or tokens -> tokens [(B) L] int32.

    boxes [(B) N 4] as x0 y0 x1 y1 in [0, 1] and box_labels [(B) N]; negative
    labels are padding. A batch may be a list of unequal lengths.
    """
    if 'tokens' in given:
      found = inputs.tokens(given['tokens'], self.length, self.vocab_size)
      return {'tokens': found}
    for key in self.needs:
      if key not in given:
        raise UserError(f'This run draws from boxes: {key} is missing.')
    boxes, labels = given['boxes'], given['box_labels']
    if _depth(labels) < 2:
      return {'tokens': self._told(boxes, labels)}
    if len(boxes) != len(labels):
      raise UserError(
        f'{len(boxes)} lists of boxes and {len(labels)} of box_labels.'
      )
    return {'tokens': np.stack([self._told(*p) for p in zip(boxes, labels)])}

  def blank(self, size: int) -> dict:
    del size
    return {'tokens': np.zeros(self.length, np.int32)}

  def show(self, arrays: dict, size: tuple[int, int]) -> np.ndarray:
    """The boxes as the crop shows them: uint8 [B H W 3]."""
    pictures = []
    for tokens in arrays['tokens']:
      boxes, labels, crop = self.tokens.decode(tokens)
      shown = images.in_crop(boxes, crop)
      pictures.append(panels.boxes(shown, labels, size))
    return np.stack(pictures)

  def _told(self, boxes, labels) -> np.ndarray:
    """A user's layout as tokens, none of it left out; or UserError."""
    boxes, labels = self._checked(boxes, labels)
    count = np.count_nonzero(labels >= 0)
    if count > self.tokens.max_objects:
      raise UserError(
        f'A layout of {count} boxes; this run knows up to '
        f'{self.tokens.max_objects} (task.length={self.length}).'
      )
    return self.tokens.encode(boxes, labels)

  def _checked(self, boxes, labels) -> tuple[np.ndarray, np.ndarray]:
    """One image's boxes float64 [N 4] and labels int32 [N]; or UserError."""
    labels = inputs.integers('box_labels', labels, '[N]').reshape(-1)
    boxes = np.asarray(boxes, np.float64)
    if boxes.size != 4 * len(labels) or (boxes.size and boxes.shape[-1] != 4):
      raise UserError(
        f'boxes {list(boxes.shape)} for {len(labels)} box_labels; they must be'
        ' [N 4].'
      )
    boxes = boxes.reshape(-1, 4)
    real = labels >= 0
    wrong = real & ~(
      (boxes >= 0).all(1)
      & (boxes <= 1).all(1)
      & (boxes[:, :2] <= boxes[:, 2:]).all(1)
    )
    if wrong.any():
      box = ' '.join(f'{x:.4g}' for x in boxes[wrong][0])
      raise UserError(
        f'The box {box} is outside the image or turned over; a box is x0 y0 x1'
        ' y1 in [0, 1] with x0 <= x1 and y0 <= y1.'
      )
    highest = (self.num_classes or self.tokens.pad) - 1
    if (labels > highest).any():
      raise UserError(
        f'box_labels holds {labels.max()}; the classes are 0 to {highest}'
        ' (task.num_classes).'
      )
    return boxes, labels


def _depth(nested) -> int:
  """Dimensions of an array, or of lists of unequal lengths."""
  if isinstance(nested, (list, tuple)):
    return 1 + max((_depth(item) for item in nested), default=0)
  return np.ndim(nested)


class Layout(TokenConditioner):
  """tokens [B L] -> context [B L width]; the null is padding throughout.

  An empty layout is not the null: it still tells the crop.
  """

  vocab_size: int = 8192
  length: int = 92

  def null(self, batch: Batch) -> Batch:
    pads = jnp.full_like(batch['tokens'], self.vocab_size - 1)
    return {**batch, 'tokens': pads}
