"""What a degradation is made of: (image float32 [H W 3] in [0, 1], generator)
-> an image, perhaps a little outside [0, 1].
"""

import dataclasses
import io

import numpy as np
from PIL import Image

# Ways to resize: the first two sample without antialiasing, as OpenCV's do.
KINDS = ('linear', 'cubic', 'area')
_SAMPLING = {
  'linear': Image.Resampling.BILINEAR,
  'cubic': Image.Resampling.BICUBIC,
}


@dataclasses.dataclass(frozen=True)
class Resize:
  """To size (H, W)."""

  kind: str
  size: tuple[int, int]

  def __call__(self, image: np.ndarray, rng) -> np.ndarray:
    del rng
    return np.stack(
      [self._channel(image[..., i]) for i in range(image.shape[-1])], axis=-1
    )

  def _channel(self, channel: np.ndarray) -> np.ndarray:
    (height, width), (h, w) = channel.shape, self.size
    picture = Image.fromarray(np.ascontiguousarray(channel))
    if self.kind == 'area':
      return np.asarray(picture.resize((w, h), Image.Resampling.BOX))
    # `transform` reads nothing within half a pixel of the border, so the
    # border is repeated first.
    padded = Image.fromarray(np.pad(channel, 2, 'edge'))
    across, down = width / w, height / h
    return np.asarray(
      padded.transform(
        (w, h),
        Image.Transform.AFFINE,
        (across, 0, 2, 0, down, 2),
        _SAMPLING[self.kind],
      )
    )


@dataclasses.dataclass(frozen=True)
class Blur:
  """A Gaussian of `side` pixels: sigmas along two axes, turned by angle."""

  side: int
  sigmas: tuple[float, float]
  angle: float = 0.0

  def __call__(self, image: np.ndarray, rng) -> np.ndarray:
    del rng
    return convolve(image, gaussian(self.side, self.sigmas, self.angle))


@dataclasses.dataclass(frozen=True)
class BlurAndStride:
  """A Gaussian around the middle of each block, then one pixel per block."""

  sigma: float
  factor: int

  def __call__(self, image: np.ndarray, rng) -> np.ndarray:
    del rng
    middle = (self.factor - 1) / 2
    kernel = gaussian(25, (self.sigma, self.sigma), 0.0, -middle)
    return convolve(image, kernel)[:: self.factor, :: self.factor]


@dataclasses.dataclass(frozen=True)
class GaussianNoise:
  """Added noise with a covariance [3 3] of the channels."""

  covariance: np.ndarray

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image + self.draw(rng, image.shape)

  def draw(self, rng: np.random.Generator, shape: tuple) -> np.ndarray:
    values, vectors = np.linalg.eigh(self.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return (rng.standard_normal(shape, np.float32) @ root.T).astype(np.float32)


class SpeckleNoise(GaussianNoise):
  """Noise in proportion to the image."""

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image * (1 + self.draw(rng, image.shape))


@dataclasses.dataclass(frozen=True)
class Jpeg:
  """Compression and back."""

  quality: int

  def __call__(self, image: np.ndarray, rng) -> np.ndarray:
    del rng
    pixels = np.rint(255 * image.clip(0, 1)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'JPEG', quality=self.quality)
    return np.asarray(Image.open(buffer), np.float32) / 255


@dataclasses.dataclass(frozen=True)
class Sensor:
  """A camera: to linear light and a Bayer pattern, noise there, and back.

  The noise's variance is shot * light + read. `gains` are the white balance's
  of red, green and blue.
  """

  shot: float
  read: float
  gains: tuple[float, float, float]

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    gains = np.float32(self.gains)
    light = image.clip(0, 1) ** 2.2 / gains
    pattern = bayer(*image.shape[:2])
    raw = (light * pattern).sum(-1)
    spread = np.sqrt(self.shot * raw + self.read)
    raw = raw + spread * rng.standard_normal(raw.shape, np.float32)
    seen = demosaic(raw, pattern) * gains
    return (seen.clip(0, 1) ** (1 / 2.2)).astype(np.float32)


def gaussian(
  side: int, sigmas: tuple[float, float], angle: float, centre: float = 0.0
) -> np.ndarray:
  """A kernel [side side] of sum 1 around (centre, centre)."""
  line = np.arange(side) - (side - 1) / 2 - centre
  x, y = line[None, :], line[:, None]
  cos, sin = np.cos(angle), np.sin(angle)
  u, v = cos * x + sin * y, cos * y - sin * x
  # Too narrow to see is one pixel.
  su, sv = np.maximum(sigmas, 0.05)
  exponent = -0.5 * ((u / su) ** 2 + (v / sv) ** 2)
  kernel = np.exp(exponent - exponent.max())
  return (kernel / kernel.sum()).astype(np.float32)


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """[H W C] with [k k], mirrored at the border."""
  from scipy import signal  # Takes longer to import than jax.

  side = kernel.shape[0]
  # An even kernel has its middle between pixels: it takes one more behind.
  edges = ((side - 1) // 2, side // 2)
  padded = np.pad(image, (edges, edges, (0, 0)), 'symmetric')
  return signal.fftconvolve(padded, kernel[..., None], 'valid', axes=(0, 1))


def bayer(height: int, width: int) -> np.ndarray:
  """Which colour each pixel of a sensor sees: one-hot [H W 3], RGGB."""
  pattern = np.zeros((height, width, 3), np.float32)
  pattern[0::2, 0::2, 0] = 1
  pattern[0::2, 1::2, 1] = 1
  pattern[1::2, 0::2, 1] = 1
  pattern[1::2, 1::2, 2] = 1
  return pattern


def demosaic(raw: np.ndarray, pattern: np.ndarray) -> np.ndarray:
  """raw [H W] -> colours [H W 3], bilinearly from the nearest ones."""
  from scipy import ndimage

  near = np.float32([[1, 2, 1], [2, 4, 2], [1, 2, 1]])
  blur = lambda x: ndimage.convolve(x, near[..., None], mode='constant')
  seen = raw[..., None] * pattern
  # A sensor of one pixel has not seen every colour.
  filled = blur(seen) / np.maximum(blur(pattern), 1e-6)
  return np.where(pattern > 0, seen, filled)
