"""`scenes`: a dataset without files, drawn by index in numpy.

Coloured shapes stand on textured, lit backgrounds. Every example knows its
class, caption, boxes and segmentation, so every task of the paper can be
trained on it, and `scene_reader` can score what a model draws.

One (colour, shape, place) triple in nine, those where `label % 9 == place`, is
in no split but 'held_out': its captions are new to every model trained here,
though each of their words is not.
"""

import colorsys
import dataclasses
import functools
import math
import operator
from collections.abc import Sequence

import numpy as np

from ldm_jax.data import scene_captions
from ldm_jax.data.scene_captions import COLOURS, PLACES, SHAPES, Thing
from ldm_jax.data.scene_shapes import distance, extent, pixel_grid
from ldm_jax.types import UserError

SPLITS = ('train', 'validation', 'test', 'held_out')
DEFAULT_NUM_EXAMPLES = {
  'train': 50_000,
  'validation': 2_000,
  'test': 2_000,
  'held_out': 2_000,
}
NUM_LABELS = len(COLOURS) * len(SHAPES)

# Hue in degrees and its jitter, then ranges of saturation and value. The hues
# are at least 25 degrees apart and light never changes them.
PALETTE = {
  'red': (358, 5, (0.82, 0.95), (0.78, 0.90)),
  'orange': (27, 4, (0.85, 0.97), (0.86, 0.92)),
  'yellow': (54, 4, (0.78, 0.92), (0.86, 0.92)),
  'green': (125, 10, (0.65, 0.85), (0.55, 0.75)),
  'cyan': (182, 7, (0.68, 0.88), (0.78, 0.90)),
  'blue': (222, 8, (0.75, 0.92), (0.70, 0.88)),
  'purple': (276, 8, (0.62, 0.82), (0.58, 0.75)),
  'pink': (326, 7, (0.52, 0.66), (0.86, 0.92)),
}

# Range of the radius by the number of objects, as shares of the image's side.
RADII = {1: (0.21, 0.27), 2: (0.135, 0.17), 3: (0.125, 0.15)}
# The centres of left, centre and right (top, middle, bottom) keep apart, so
# that a place is never a matter of half a pixel.
LOW_END, MIDDLE, HIGH_START = 0.37, (0.45, 0.55), 0.63
MAX_ROTATION = math.radians(12)


@dataclasses.dataclass(frozen=True)
class Placed:
  """A thing and its geometry, in shares of the image's side (y down)."""

  thing: Thing
  x: float
  y: float
  radius: float
  rotation: float  # radians
  rgb: tuple[float, float, float]

  @property
  def label(self) -> int:
    return label_of(self.thing)

  @property
  def box(self) -> tuple[float, float, float, float]:
    """The tight box x0 y0 x1 y1."""
    left, top, right, bottom = extent(self.thing.shape, self.rotation)
    r = self.radius
    return (
      self.x + r * left, self.y + r * top,
      self.x + r * right, self.y + r * bottom,
    )  # fmt: skip


def label_of(thing: Thing) -> int:
  """The class of a thing: colour x shape, 0..39; see `label_name`."""
  colour, shape = COLOURS.index(thing.colour), SHAPES.index(thing.shape)
  return colour * len(SHAPES) + shape


def label_name(label: int) -> str:
  """The words of a class, such as 'red circle'."""
  colour, shape = divmod(label, len(SHAPES))
  return f'{COLOURS[colour]} {SHAPES[shape]}'


def is_held_out(thing: Thing) -> bool:
  """Whether no split but 'held_out' shows this colour, shape and place."""
  return label_of(thing) % len(PLACES) == PLACES.index(thing.place)


def held_out_captions() -> list[str]:
  """200 captions no training image has: 40 triples in 5 phrasings each."""
  triples = [
    Thing(*label_name(label).split(), PLACES[label % len(PLACES)])
    for label in range(NUM_LABELS)
  ]
  return [
    scene_captions.caption([thing], template)
    for template in range(scene_captions.NUM_TEMPLATES)
    for thing in triples
  ]


def place_of(x: float, y: float) -> str:
  """The place of a centre (x, y) in shares of the image's side."""
  column = 0 if x < 0.41 else 1 if x <= 0.59 else 2
  row = 0 if y < 0.41 else 1 if y <= 0.59 else 2
  return PLACES[3 * row + column]


# Scenes.


def draw_scene(
  rng: np.random.Generator, max_objects: int, held_out: bool
) -> list[Placed]:
  """One to max_objects things that don't touch, largest first."""
  num = int(rng.integers(1, max_objects + 1))
  while True:  # Three things find room in a few tries.
    placed = [_draw_thing(rng, RADII[num], held_out) for _ in range(num)]
    if all(_apart(a, b) for i, a in enumerate(placed) for b in placed[:i]):
      return sorted(placed, key=lambda p: -p.radius)


def _apart(a: Placed, b: Placed) -> bool:
  # 1.28 is the largest extent of any shape; 0.06 is two pixels of 32.
  gap = math.hypot(a.x - b.x, a.y - b.y) - 1.28 * (a.radius + b.radius)
  return a.thing.place != b.thing.place and gap > 0.06


def _draw_thing(
  rng: np.random.Generator, radii: tuple[float, float], held_out: bool
) -> Placed:
  label = int(rng.integers(NUM_LABELS))
  # Steps 1..8 from the held-out place reach every other one.
  step = 0 if held_out else int(rng.integers(1, len(PLACES)))
  place = (label + step) % len(PLACES)
  row, column = divmod(place, 3)
  colour, shape = label_name(label).split()
  size, turn, x, y, *hsv = rng.random(7)
  radius = radii[0] + size * (radii[1] - radii[0])
  rotation = (2 * turn - 1) * MAX_ROTATION
  left, top, right, bottom = (radius * e for e in extent(shape, rotation))
  return Placed(
    thing=Thing(colour, shape, PLACES[place]),
    x=_centre(column, x, -left, 1 - right),
    y=_centre(row, y, -top, 1 - bottom),
    radius=radius,
    rotation=rotation,
    rgb=_rgb(colour, *hsv),
  )


def _centre(cell: int, share: float, lowest: float, highest: float) -> float:
  """A coordinate in the cell 0, 1 or 2, with the shape inside the image."""
  low, high = (
    (min(lowest + 0.01, LOW_END), LOW_END),
    MIDDLE,
    (HIGH_START, max(highest - 0.01, HIGH_START)),
  )[cell]
  return low + share * (high - low)


def _rgb(colour: str, h: float, s: float, v: float) -> tuple:
  hue, jitter, (s0, s1), (v0, v1) = PALETTE[colour]
  degrees = hue + (2 * h - 1) * jitter
  return colorsys.hsv_to_rgb(
    degrees / 360 % 1, s0 + s * (s1 - s0), v0 + v * (v1 - v0)
  )


# Rendering.


@functools.lru_cache
def _stretch(size: int, knots: int) -> np.ndarray:
  """[size knots]: cosine interpolation of `knots` values to a line."""
  at = np.linspace(0, knots - 1, size)
  left = np.minimum(at.astype(int), knots - 2)
  share = (1 - np.cos(np.pi * (at - left))) / 2
  matrix = np.zeros((size, knots), np.float32)
  matrix[np.arange(size), left] = 1 - share
  matrix[np.arange(size), left + 1] += share
  return matrix


def _clouds(rng: np.random.Generator, size: int, knots: int) -> np.ndarray:
  """A smooth random field [H W] within [-1, 1]."""
  values = rng.random((knots, knots), dtype=np.float32) * 2 - 1
  stretch = _stretch(size, knots)
  return stretch @ values @ stretch.T


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
  """A pattern [H W] within [-1, 1]: clouds, stripes, waves or checks."""
  kind = rng.integers(4)
  if kind == 0:
    return _clouds(rng, size, 6)
  x, y = pixel_grid(size)
  turn, phase, rate, other = rng.random(4).tolist()
  pulse = 2 * math.pi * (2 + 1.5 * rate)  # 2 to 3.5 waves across the image
  if kind == 1:
    along = math.cos(math.pi * turn) * x + math.sin(math.pi * turn) * y
    return np.sin(pulse * along + 2 * math.pi * phase)
  if kind == 2:
    return np.sin(pulse * np.hypot(x - phase, y - other))
  tilt = 0.4 * (turn - 0.5)
  wave_x = np.sin(pulse * (x + tilt * y) + 2 * math.pi * phase)
  return wave_x * np.sin(pulse * (y - tilt * x) + 2 * math.pi * other)


def _background(
  rng: np.random.Generator, size: int, light: tuple[float, float]
) -> np.ndarray:
  """A lit, textured, nearly grey ground [H W 3] in [0, 1]."""
  x, y = pixel_grid(size)
  h, drift, s, v, glow, grain = rng.random(6).tolist()
  value = 0.42 + 0.38 * v
  one, two = (
    np.array(colorsys.hsv_to_rgb(hue % 1, 0.04 + 0.11 * s, 1.0), np.float32)
    for hue in (h, h + 0.3 * (drift - 0.5))
  )
  shade = 1 + (0.10 + 0.20 * glow) * (
    light[0] * (x - 0.5) + light[1] * (y - 0.5)
  )
  shade = shade + (0.03 + 0.04 * grain) * _texture(rng, size)
  mix = 0.5 + 0.5 * _clouds(rng, size, 3)
  return (value * shade)[..., None] * (one + mix[..., None] * (two - one))


def render(
  rng: np.random.Generator, scene: Sequence[Placed], size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (image uint8 [H W 3], segmentation int32 [H W]).

  The segmentation is 0 for the ground and 1 + label where a thing covers at
  least half of a pixel. Edges are anti-aliased from exact distances.
  """
  turn = 2 * math.pi * rng.random()
  light = (math.cos(turn), math.sin(turn))  # points to the lamp
  image = _background(rng, size, light)
  segmentation = np.zeros((size, size), np.int32)
  grid_x, grid_y = pixel_grid(size)
  for placed in scene:
    scale = placed.radius * size  # pixels per unit of `distance`
    x, y = (
      (grid_x - placed.x) / placed.radius,
      (grid_y - placed.y) / placed.radius,
    )
    shape, rotation = placed.thing.shape, placed.rotation
    # The shadow falls away from the lamp and fades over a quarter radius.
    away = distance(shape, x + 0.16 * light[0], y + 0.16 * light[1], rotation)
    image *= (1 - 0.3 * np.clip(0.5 - 2.2 * away, 0, 1))[..., None]
    cover = np.clip(0.5 - scale * distance(shape, x, y, rotation), 0, 1)
    shade = 0.95 + 0.10 * np.clip(light[0] * x + light[1] * y, -1.3, 1.3)
    colour = shade[..., None] * np.array(placed.rgb, np.float32)
    image += cover[..., None] * (colour - image)
    segmentation[cover >= 0.5] = 1 + placed.label
  return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8), segmentation


class Scenes:
  """Random access to drawn scenes; the same index is always the same scene.

  An example holds `image` uint8 [H W 3], `label` (the class of the largest
  object), `text`, `boxes` float32 [N 4], `box_labels` int32 [N] (largest
  first) and `segmentation` int32 [H W]. Splits of one seed share no scene.

  Args:
    num_examples: length of the split; 0 is the split's default.
    size: height and width in pixels; made for 32 and 64.
    max_objects: scenes hold 1 to this many objects, at most 3.
    seed: another seed is another dataset.
    split: one of SPLITS.
  """

  def __init__(
    self,
    num_examples: int = 0,
    size: int = 32,
    max_objects: int = 1,
    seed: int = 0,
    split: str = 'train',
  ):
    if split not in SPLITS:
      raise UserError(
        f'scenes has no split {split!r}; it has {", ".join(SPLITS)}.'
      )
    if not 16 <= size <= 512:
      raise UserError(f'scenes of size={size} px; 16 to 512 can be drawn.')
    if max_objects not in RADII:
      raise UserError(f'scenes with max_objects={max_objects}; 1 to 3 fit.')
    if num_examples < 0 or seed < 0:
      raise UserError(
        f'scenes got num_examples={num_examples}, seed={seed}; neither may be'
        ' negative.'
      )
    self.num_examples = num_examples or DEFAULT_NUM_EXAMPLES[split]
    self.size, self.max_objects = size, max_objects
    self.seed, self.split = seed, split
    self.classes = [label_name(label) for label in range(NUM_LABELS)]

  def __len__(self) -> int:
    return self.num_examples

  def _plan(self, index: int):
    """(generator to render with, scene, caption) of an index."""
    index = operator.index(index)
    if not 0 <= index < self.num_examples:
      raise IndexError(f'scene {index} of {self.num_examples}')
    rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index))
    scene = draw_scene(rng, self.max_objects, self.split == 'held_out')
    text = scene_captions.caption(
      [placed.thing for placed in scene],
      int(rng.integers(scene_captions.NUM_TEMPLATES)),
    )
    return rng, scene, text

  def scene(self, index: int) -> list[Placed]:
    """What an example shows, without drawing it."""
    return self._plan(index)[1]

  def caption(self, index: int) -> str:
    """An example's caption, without drawing it."""
    return self._plan(index)[2]

  def __getitem__(self, index: int) -> dict:
    rng, scene, text = self._plan(index)
    image, segmentation = render(rng, scene, self.size)
    return {
      'image': image,
      'label': scene[0].label,
      'text': text,
      'boxes': np.array([p.box for p in scene], np.float32),
      'box_labels': np.array([p.label for p in scene], np.int32),
      'segmentation': segmentation,
    }
