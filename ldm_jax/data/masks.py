"""Masks of what is to be filled: LaMa's brush strokes and boxes.

Suvorov et al. 2022, "Resolution-robust Large Mask Inpainting", whose settings
the paper trains and is evaluated with (Sec. 4.5): `lama_256` for training;
thin, medium and thick masks for evaluation at 256 and at 512 pixels. Lengths
are in pixels of that size and follow the image's.
"""

import dataclasses
import math

import numpy as np
from PIL import Image, ImageDraw

from ldm_jax.types import UserError

# A stroke is a chain of at most so many straight pieces.
_PIECES = 5
# A mask over the limit of its setting is drawn again, at most so often.
_ATTEMPTS = 50


@dataclasses.dataclass(frozen=True)
class Strokes:
  """Chains of thick lines that start anywhere.

  Attributes:
    times: fewest and most strokes.
    max_angle: the direction of a piece is 0.01 + 0 .. max_angle - 1 radians,
      turned the other way in every second stroke.
    max_length: a piece is 10 to 10 + max_length long.
    max_width: and 5 to 5 + max_width wide.
  """

  times: tuple[int, int]
  max_angle: int
  max_length: int
  max_width: int


@dataclasses.dataclass(frozen=True)
class Boxes:
  """Upright rectangles, `margin` away from the border.

  Attributes:
    times: fewest and most boxes.
    sides: shortest and longest side.
    margin: pixels at each border that stay free.
  """

  times: tuple[int, int]
  sides: tuple[int, int]
  margin: int


@dataclasses.dataclass(frozen=True)
class MaskSpec:
  """Strokes, or with probability `box_share` boxes.

  `size` is the side of the image that the lengths are told for; a mask that
  covers more than `max_area` is drawn again.
  """

  strokes: Strokes
  boxes: Boxes | None = None
  box_share: float = 0.0
  size: int = 256
  max_area: float = 1.0


# LaMa weighs strokes 1 and boxes 0.3 in its evaluation.
_FEW_BOXES = 0.3 / 1.3

SETTINGS = {
  'lama_256': MaskSpec(
    Strokes((1, 5), 4, 200, 100), Boxes((1, 4), (30, 150), 10), 0.5
  ),
  'thin_256': MaskSpec(Strokes((4, 50), 4, 40, 10), max_area=0.5),
  'medium_256': MaskSpec(
    Strokes((4, 5), 4, 100, 50),
    Boxes((1, 5), (10, 50), 0),
    _FEW_BOXES,
    max_area=0.5,
  ),
  'thick_256': MaskSpec(
    Strokes((1, 5), 4, 200, 100),
    Boxes((1, 3), (30, 150), 10),
    _FEW_BOXES,
    max_area=0.5,
  ),
  'thin_512': MaskSpec(Strokes((4, 70), 4, 100, 20), size=512, max_area=0.5),
  'medium_512': MaskSpec(
    Strokes((4, 10), 4, 200, 100),
    Boxes((1, 5), (30, 150), 0),
    _FEW_BOXES,
    size=512,
    max_area=0.5,
  ),
  'thick_512': MaskSpec(
    Strokes((1, 5), 4, 450, 250),
    Boxes((1, 4), (30, 300), 10),
    _FEW_BOXES,
    size=512,
    max_area=0.5,
  ),
}


def check(name: str, key: str = 'masks') -> None:
  """Raises UserError for a name that is not in SETTINGS; `key` gave it."""
  if name not in SETTINGS:
    raise UserError(
      f'{key}={name!r} is unknown; allowed: {", ".join(SETTINGS)}.'
    )


def draw(
  rng: np.random.Generator, height: int, width: int, spec: MaskSpec
) -> np.ndarray:
  """A mask float32 [H W 1] of 0 and 1, where 1 is to be filled."""
  scale = min(height, width) / spec.size
  for _ in range(_ATTEMPTS):
    canvas = Image.new('L', (width, height))
    if spec.boxes is not None and rng.random() < spec.box_share:
      _draw_boxes(rng, canvas, spec.boxes, scale)
    else:
      _draw_strokes(rng, canvas, spec.strokes, scale)
    mask = np.asarray(canvas, np.float32)[..., None]
    if mask.mean() <= spec.max_area:
      break
  return mask


def _draw_strokes(
  rng: np.random.Generator, canvas: Image.Image, spec: Strokes, scale: float
) -> None:
  pen, (w, h) = ImageDraw.Draw(canvas), canvas.size
  for number in range(rng.integers(spec.times[0], spec.times[1] + 1)):
    x, y = rng.random(2) * (w, h)
    for _ in range(rng.integers(1, _PIECES + 1)):
      angle = 0.01 + rng.integers(spec.max_angle)
      if number % 2 == 0:
        angle = -angle
      length = scale * rng.uniform(10, 10 + spec.max_length)
      radius = scale * rng.uniform(5, 5 + spec.max_width) / 2
      end_x = min(max(x + length * math.sin(angle), 0), w)
      end_y = min(max(y + length * math.cos(angle), 0), h)
      _line(pen, (x, y), (end_x, end_y), radius)
      x, y = end_x, end_y


def _line(pen, start, end, radius: float) -> None:
  """A thick line with round ends."""
  radius = max(radius, 0.5)
  dx, dy = end[0] - start[0], end[1] - start[1]
  length = math.hypot(dx, dy)
  if length:
    across = (-dy * radius / length, dx * radius / length)
    corners = [
      (point[0] + sign * across[0], point[1] + sign * across[1])
      for point, sign in ((start, 1), (end, 1), (end, -1), (start, -1))
    ]
    pen.polygon(corners, fill=1)
  for x, y in (start, end):
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)


def _draw_boxes(
  rng: np.random.Generator, canvas: Image.Image, spec: Boxes, scale: float
) -> None:
  extent = np.array(canvas.size)
  margin = round(scale * spec.margin)
  longest = np.minimum(round(scale * spec.sides[1]), extent - 2 * margin)
  shortest = np.minimum(max(1, round(scale * spec.sides[0])), longest)
  for _ in range(rng.integers(spec.times[0], spec.times[1] + 1)):
    sides = rng.integers(shortest, longest + 1)
    corner = rng.integers(margin, extent - margin - sides + 1)
    canvas.paste(1, (*corner.tolist(), *(corner + sides).tolist()))
