"""Boxes with classes to tokens, and back (App. E.2.1, as released).

An object is three tokens: its class, its box's top-left corner and its
bottom-right one. A corner is its place on a square grid, row by row; a
vocabulary of 8192 gives 90 x 90 places. The last id pads. Two more tokens say
which part of the image is shown: the corners of the crop.
"""

import dataclasses
import math

import numpy as np

from ldm_jax.types import UserError

WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class BoxTokens:
  """The form of a layout's tokens.

  Attributes:
    vocab_size: ids; classes and corners share them.
    length: tokens of a layout. 92 are 30 objects and the crop.
    crop: whether the last two tokens are the crop's corners.
  """

  vocab_size: int = 8192
  length: int = 92
  crop: bool = True

  def __post_init__(self):
    if self.max_objects < 1 or self.grid < 2:
      raise UserError(
        f'A layout of length={self.length} with vocab_size={self.vocab_size}:'
        ' an object is 3 tokens, the crop 2, and the grid needs 4 ids and the'
        ' padding one.'
      )

  @property
  def grid(self) -> int:
    """Places along each side; the padding id is none of them."""
    return math.isqrt(self.vocab_size - 1)

  @property
  def pad(self) -> int:
    return self.vocab_size - 1

  @property
  def max_objects(self) -> int:
    return (self.length - 2 * self.crop) // 3

  def corner(self, points: np.ndarray) -> np.ndarray:
    """Points (x, y) [.. 2] in [0, 1] -> ids [..] of the nearest places."""
    # In float64, halves to even: as the release's Python rounds.
    steps = np.rint(np.asarray(points, np.float64) * (self.grid - 1))
    return (self.grid * steps[..., 1] + steps[..., 0]).astype(np.int32)

  def point(self, tokens: np.ndarray) -> np.ndarray:
    """Ids [..] -> points (x, y) [.. 2] in [0, 1]."""
    y, x = np.divmod(np.asarray(tokens), self.grid)
    return (np.stack([x, y], -1) / (self.grid - 1)).astype(np.float32)

  def encode(
    self, boxes: np.ndarray, labels: np.ndarray, crop: np.ndarray = WHOLE
  ) -> np.ndarray:
    """boxes [N 4] (x0 y0 x1 y1), labels [N] -> tokens [length] int32.

    Objects whose label is negative are padding and left out; the first
    `max_objects` others are kept, in their order.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    labels = np.asarray(labels, np.int32).reshape(-1)
    kept = np.flatnonzero(labels >= 0)[: self.max_objects]
    objects = np.full((self.max_objects, 3), self.pad, np.int32)
    objects[: len(kept), 0] = labels[kept]
    objects[: len(kept), 1] = self.corner(boxes[kept, :2])
    objects[: len(kept), 2] = self.corner(boxes[kept, 2:])
    tokens = np.full(self.length, self.pad, np.int32)
    tokens[: objects.size] = objects.ravel()
    if self.crop:
      corners = np.asarray(crop, np.float64).reshape(2, 2)
      tokens[objects.size : objects.size + 2] = self.corner(corners)
    return tokens

  def decode(
    self, tokens: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tokens [length] -> (boxes [N 4], labels [N], crop [4]).

    The exact inverse: encoding what it returns gives the same tokens, for all
    tokens that `encode` can give.
    """
    tokens = np.asarray(tokens)
    objects = tokens[: 3 * self.max_objects].reshape(-1, 3)
    objects = objects[objects[:, 0] != self.pad]
    boxes = self.point(objects[:, 1:]).reshape(-1, 4)
    crop = np.float32(WHOLE)
    last = tokens[3 * self.max_objects :][:2]
    if self.crop and self.pad not in last:
      crop = self.point(last).reshape(4)
    return boxes, objects[:, 0].astype(np.int32), crop
