"""Images made small and worse, as super-resolution trains on them (App. D.6).

Bicubic is SR3's. The BSR degradation follows BSRGAN (Zhang et al. 2021): blur,
resizing and noise of many kinds in random order. `plan` draws what is done,
`degrade` does it; the same generator gives the same result.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image

from ldm_jax.data import degrade_steps as steps
from ldm_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Bsr:
  """The ranges of a BSR degradation, which `plan` draws from.

  Attributes:
    blurs: how many times it blurs.
    blur_share: of BSRGAN's widths.
    round_sides, oblong_sides: of the blurs' kernels, in pixels, where they are
      as wide along both axes and where they are not.
    shrink_anyhow: how often it first shrinks to any size, and not by blur and
      stride.
    jpeg: lowest and highest quality.
    noise: lowest and highest level of noise, of 255.
    shot: range of the camera's shot noise.
  """

  blurs: int
  blur_share: float
  round_sides: range
  oblong_sides: range
  shrink_anyhow: float
  jpeg: tuple[int, int]
  noise: tuple[int, int]
  shot: tuple[float, float]


# Kernels, shares, qualities and levels are those of the release's code. What
# differs: that code holds speckle noise and names a camera model, and runs
# neither; here both come a quarter of the time, the camera's noise as in Brooks
# et al. 2019. Half of its first halvings are antialiased, and none here; its
# blurs mirror the image at the last pixel's middle, here it is at its edge; and
# its noises of any covariance have other axes.
FULL = Bsr(
  blurs=2,
  blur_share=1.0,
  round_sides=range(7, 26, 2),
  oblong_sides=range(7, 26, 2),
  shrink_anyhow=0.75,
  jpeg=(30, 95),
  noise=(2, 25),
  shot=(1e-4, 1.2e-2),
)
# Kernels of an even side move the image by half a pixel, there as here.
LIGHT = Bsr(
  blurs=1,
  blur_share=0.25,
  round_sides=range(5, 8),
  oblong_sides=range(5, 15),
  shrink_anyhow=0.8,
  jpeg=(80, 95),
  noise=(1, 2),
  shot=(1e-4, 1e-3),
)
DEGRADATIONS = {'bicubic': None, 'bsr_light': LIGHT, 'bsr': FULL}

# Probabilities.
_HALVE_FIRST = 0.25  # of an x4
_ANISOTROPIC = 0.5
_JPEG = 0.9  # among the others; the last step always is one
_SENSOR = 0.25
_SPECKLE = 0.25

Step = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def check(name: str) -> None:
  """Raises UserError for a name that is not in DEGRADATIONS."""
  if name not in DEGRADATIONS:
    raise UserError(
      f'degradation={name!r} is unknown; allowed: {", ".join(DEGRADATIONS)}.'
    )


def degrade(
  rng: np.random.Generator, image: np.ndarray, factor: int, name: str
) -> np.ndarray:
  """image uint8 [H W 3] -> uint8 [H/factor W/factor 3]."""
  height, width = image.shape[:2]
  if height % factor or width % factor:
    raise UserError(
      f'An image of {height}x{width} cannot be made {factor} times smaller.'
    )
  spec = DEGRADATIONS[name]
  if spec is None:
    return bicubic(image, factor)
  pixels = image.astype(np.float32) / 255
  for step in plan(rng, spec, factor, (height, width)):
    pixels = step(pixels, rng).clip(0, 1)
  return np.rint(255 * pixels).astype(np.uint8)


def bicubic(image: np.ndarray, factor: int) -> np.ndarray:
  """uint8 [H W 3] -> [H/factor W/factor 3], antialiased, as SR3 has it."""
  height, width = image.shape[:2]
  size = (width // factor, height // factor)
  small = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
  return np.asarray(small)


def plan(
  rng: np.random.Generator, spec: Bsr, factor: int, size: tuple[int, int]
) -> list[Step]:
  """The steps from an image of size (H, W) to one of (H, W) / factor."""
  wanted = (size[0] // factor, size[1] // factor)
  done, left = [], factor
  if factor == 4 and rng.random() < _HALVE_FIRST:
    size, left = (size[0] // 2, size[1] // 2), 2
    done.append(steps.Resize(_kind(rng), size))
  others: list[Step] = [_blur(rng, spec, left) for _ in range(spec.blurs)]
  others.append(_noise(rng, spec, steps.GaussianNoise))
  if rng.random() < _JPEG:
    others.append(_jpeg(rng, spec))
  if rng.random() < _SENSOR:
    others.append(_sensor(rng, spec))
  if rng.random() < _SPECKLE:
    others.append(_noise(rng, spec, steps.SpeckleNoise))
  # Resized twice on the way: to any size, then to the one that is wanted.
  others += [_shrink(rng, spec, left, size), steps.Resize(_kind(rng), wanted)]
  order = rng.permutation(len(others)).tolist()
  first, last = sorted(map(order.index, (len(others) - 2, len(others) - 1)))
  order[first], order[last] = len(others) - 2, len(others) - 1
  done += [others[i] for i in order]
  return [*done, _jpeg(rng, spec)]


def _kind(rng: np.random.Generator) -> str:
  return steps.KINDS[rng.integers(len(steps.KINDS))]


def _blur(rng: np.random.Generator, spec: Bsr, factor: int) -> steps.Blur:
  if rng.random() < _ANISOTROPIC:
    sides = spec.oblong_sides
    # Variances along two axes at any angle.
    variances = spec.blur_share * (4 + factor) * rng.random(2)
    sigmas = np.sqrt(variances)
  else:
    sides = spec.round_sides
    sigmas = np.repeat(spec.blur_share * (2 + 0.2 * factor) * rng.random(), 2)
  angle = np.pi * rng.random()
  side = sides[rng.integers(len(sides))]
  return steps.Blur(side, tuple(sigmas.tolist()), float(angle))


def _shrink(
  rng: np.random.Generator, spec: Bsr, factor: int, size: tuple[int, int]
) -> Step:
  if rng.random() < spec.shrink_anyhow:
    share = 1 / rng.uniform(1, 2 * factor)
    smaller = tuple(max(1, int(share * side)) for side in size)
    return steps.Resize(_kind(rng), smaller)
  return steps.BlurAndStride(rng.uniform(0.1, 0.6 * factor), factor)


def _noise(rng: np.random.Generator, spec: Bsr, kind: type) -> Step:
  level = int(rng.integers(spec.noise[0], spec.noise[1] + 1)) / 255
  colour = rng.random()
  if colour < 0.4:  # The same in all three channels.
    return kind(level**2 * np.ones((3, 3)))
  if colour < 0.8:  # Independent ones.
    return kind(level**2 * np.eye(3))
  # Any covariance, up to the highest level.
  axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
  spread = (spec.noise[1] / 255) ** 2 * rng.random(3)
  return kind(axes @ np.diag(spread) @ axes.T)


def _jpeg(rng: np.random.Generator, spec: Bsr) -> steps.Jpeg:
  return steps.Jpeg(int(rng.integers(spec.jpeg[0], spec.jpeg[1] + 1)))


def _sensor(rng: np.random.Generator, spec: Bsr) -> steps.Sensor:
  """Noise and white balance of Brooks et al. 2019, Sec. 3."""
  shot = np.exp(rng.uniform(*np.log(spec.shot)))
  read = np.exp(2.18 * np.log(shot) + 1.20 + 0.26 * rng.normal())
  red, blue = rng.uniform((1.9, 1.5), (2.4, 1.9))
  return steps.Sensor(float(shot), float(read), (float(red), 1.0, float(blue)))
