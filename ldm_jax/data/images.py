"""Files to uint8 RGB arrays, safely; and the crop that labels follow.

Decoding accepts PNG, JPEG and WEBP and nothing else, whatever a file is
called. Orientation from EXIF is applied, then all metadata (EXIF, colour
profile, text) is dropped. Transparency is composited on white, because the
colour under a fully transparent pixel is arbitrary.
"""

import errno
import io
import os
import time
import zlib

import numpy as np
from PIL import Image

FORMATS = ('PNG', 'JPEG', 'WEBP')
EXTENSIONS = ('.png', '.jpg', '.jpeg', '.webp')
MAX_PIXELS = 50_000_000
MAX_BYTES = 256 * 2**20

_RETRIES = (0.1, 1.0)  # seconds between attempts
_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN}
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}

_ORIENTATION = 0x0112
# EXIF orientation -> what brings the image upright.
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}

RESAMPLE = {
  'lanczos': Image.Resampling.LANCZOS,
  'bicubic': Image.Resampling.BICUBIC,
}


class BadImage(ValueError):
  """An image that cannot be used; the message is the reason, without path."""


def read(path: str | os.PathLike, as_map: bool = False) -> np.ndarray:
  """The image in a file, uint8 RGB [H W 3]; raises BadImage with the reason.

  With `as_map`, the map of classes in it, int32 [H W]; see `decode`.
  A file system that fails for a moment is asked again; running out of memory
  or file handles is no fault of the image and is raised as it is.
  """
  for pause in (*_RETRIES, None):
    try:
      return decode(_content(path), as_map)
    except OSError as e:
      if e.errno in _OUT_OF_RESOURCES:
        raise
      if pause is None or e.errno not in _TRANSIENT:
        raise BadImage(f'cannot be read: {e.strerror or e}') from e
    time.sleep(pause)


def _content(path: str | os.PathLike) -> bytes:
  size = os.path.getsize(path)
  if size > MAX_BYTES:
    raise BadImage(f'the file has {size} bytes, over the {MAX_BYTES} allowed')
  with open(path, 'rb') as file:
    return file.read()


def decode(content: bytes, as_map: bool = False) -> np.ndarray:
  """The image in PNG, JPEG or WEBP bytes, uint8 RGB [H W 3]; or BadImage.

  With `as_map`, the numbers that a PNG of one channel holds, int32 [H W]:
  class indices, whether or not it has a palette to show them in.
  """
  if not content:
    raise BadImage('the file is empty')
  try:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
  except Image.UnidentifiedImageError as e:
    raise BadImage('not a PNG, JPEG or WEBP image') from e
  except MemoryError:
    raise
  except Exception as e:  # Decoders raise nearly anything on hostile bytes.
    raise BadImage(f'cannot be opened: {e}') from e
  with image:
    if image.width * image.height > MAX_PIXELS:
      raise BadImage(
        f'{image.width}x{image.height} pixels are more than the'
        f' {MAX_PIXELS // 10**6} million allowed'
      )
    _check_whole(content, image.format)
    try:
      image.load()
      return (_to_map if as_map else _to_rgb)(_upright(image))
    except (BadImage, MemoryError):
      raise
    except Exception as e:
      raise BadImage(f'cannot be decoded: {e}') from e


def _check_whole(content: bytes, kind: str) -> None:
  """Raises BadImage for damage that the decoders pass over in silence."""
  if kind == 'JPEG' and content.rfind(b'\xff\xd9') < content.rfind(b'\xff\xda'):
    # A half-downloaded file, zero-filled to its length, decodes to grey.
    raise BadImage('truncated: the JPEG has no end marker')
  if kind == 'PNG':
    _check_png_chunks(content)


def _check_png_chunks(content: bytes) -> None:
  """Checks the sums of the chunks that hold pixels, which Pillow skips."""
  position = 8
  while True:
    length = int.from_bytes(content[position : position + 4], 'big')
    name = content[position + 4 : position + 8]
    end = position + 8 + length
    if len(name) < 4 or end + 4 > len(content):
      raise BadImage('truncated: the PNG has no end chunk')
    if name in (b'IHDR', b'PLTE', b'IDAT', b'IEND'):
      found = zlib.crc32(memoryview(content)[position + 4 : end])
      if found != int.from_bytes(content[end : end + 4], 'big'):
        raise BadImage(f'the checksum of a PNG {name.decode()} chunk is wrong')
    if name == b'IEND':
      return
    position = end + 4


def _upright(image: Image.Image) -> Image.Image:
  """Turned as EXIF says; broken EXIF does not spoil a good image."""
  try:
    turn = _TURNS.get(image.getexif().get(_ORIENTATION))
  except Exception:
    turn = None
  if turn is None:
    return image
  turned = image.transpose(turn)
  turned.info, turned.format = image.info, image.format
  return turned


def _to_rgb(image: Image.Image) -> np.ndarray:
  """Any mode that the three formats give, as uint8 [H W 3]."""
  if image.mode.startswith('I'):  # 16-bit grey; Pillow would clip, not scale.
    levels = np.asarray(image).astype(np.int64)
    grey = np.rint(levels / 257).astype(np.uint8)
    grey[levels == image.info.get('transparency', -1)] = 255
    return np.repeat(grey[..., None], 3, axis=-1)
  if 'A' in image.getbands() or 'transparency' in image.info:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  return np.array(image.convert('RGB'))


def _to_map(image: Image.Image) -> np.ndarray:
  """The numbers of an image of one channel, int32 [H W]."""
  if image.format == 'JPEG':
    raise BadImage('a JPEG blurs class indices; store maps as PNG')
  if len(image.getbands()) != 1:
    raise BadImage(
      f'a map of classes has one channel, and this one has {image.mode}'
      ' (colours need a palette.txt)'
    )
  return np.array(image).astype(np.int32)


def to_float(image: np.ndarray) -> np.ndarray:
  """uint8 [...] in 0..255 -> float32 in [-1, 1]."""
  return image.astype(np.float32) * np.float32(1 / 127.5) - np.float32(1)


def to_uint8(image: np.ndarray) -> np.ndarray:
  """float [...] in [-1, 1] -> uint8, rounded and clipped."""
  scaled = (np.asarray(image, np.float32) + 1) * 127.5
  return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def crop(
  example: dict,
  size: int,
  *,
  place: tuple[float, float] = (0.5, 0.5),
  flip: bool = False,
  resample: str = 'lanczos',
  resize: int = 0,
  share: float = 1.0,
) -> dict:
  """The example with its image, and the labels that live on it, [size size].

  The shorter side becomes `size` and the longer one is cropped, as in the
  release; `resize` and `share` crop both. Boxes stay what they are in the whole
  image, and those of which the crop shows nothing are dropped, with their
  `box_labels`; `crop` tells where it was, and `in_crop` what it shows of them.
  `segmentation` and `mask` are resampled to the nearest pixel.

  Args:
    example: 'image' uint8 [H W 3]; perhaps 'boxes' [N 4], 'box_labels' [N],
      'segmentation' [H W], 'mask' [H W].
    size: Side of the result in pixels.
    place: Where the crop lies along each axis (y, x), 0 to 1; 0.5 is centred.
    flip: Whether left and right are exchanged.
    resample: 'lanczos' or 'bicubic', antialiased.
    resize: Pixels of the shorter side, `size` or more, of which the crop takes
      `size`; 0 is `size`, and -1 is as many as there are.
    share: Of what the crop would take of the shorter side.
  """
  image = example['image']
  height, width = image.shape[:2]
  side = max(1, int(share * _seen(min(height, width), size, resize)))
  top, left = (
    int((extent - side) * where + 1e-6)
    for extent, where in zip((height, width), place)
  )
  result = dict(example)
  result['image'] = _resize(image, (left, top), side, size, RESAMPLE[resample])
  nearest = Image.Resampling.NEAREST
  for key in ('segmentation', 'mask'):
    if key in example:
      classes = np.asarray(example[key], np.int32)
      result[key] = _resize(classes, (left, top), side, size, nearest)
  if 'boxes' in example:
    whole = np.float32([width, height, width, height])
    where = np.float32([left, top, left + side, top + side])
    result['crop'] = where / whole
    boxes = np.asarray(example['boxes'], np.float32).reshape(-1, 4).clip(0, 1)
    shown = in_crop(boxes, result['crop'])
    kept = (shown[:, 2:] > shown[:, :2]).all(1)
    result['boxes'] = boxes[kept]
    if 'box_labels' in example:
      result['box_labels'] = np.asarray(example['box_labels'], np.int32)[kept]
  return _flip(result) if flip else result


def in_crop(boxes: np.ndarray, crop: np.ndarray) -> np.ndarray:
  """Boxes [N 4] of an image in shares of a crop [4] of it, cut at its edge."""
  corner, extent = crop[:2], np.maximum(crop[2:] - crop[:2], 1e-6)
  shares = (np.reshape(boxes, (-1, 2, 2)) - corner) / extent
  return shares.clip(0, 1).reshape(-1, 4)


def _seen(shorter: int, size: int, resize: int) -> int:
  """How many of the shorter side's pixels become the crop's `size`."""
  if resize > 0:
    return round(shorter * size / resize)
  return min(size, shorter) if resize else shorter


def _resize(
  pixels: np.ndarray, corner: tuple[int, int], side: int, size: int, resample
) -> np.ndarray:
  """The square of `side` pixels at corner (x, y), resampled to [size size]."""
  left, top = corner
  if side == size:
    return pixels[top : top + side, left : left + side]
  box = (left, top, left + side, top + side)
  image = Image.fromarray(pixels).resize((size, size), resample, box=box)
  return np.array(image)


def _flip(example: dict) -> dict:
  """Exchanges left and right in everything that has a place."""
  result = dict(example)
  for key in ('image', 'segmentation', 'mask'):
    if key in example:
      result[key] = np.ascontiguousarray(example[key][:, ::-1])
  if 'boxes' in example:
    for key in ('boxes', 'crop'):
      x0, y0, x1, y1 = example[key].T
      result[key] = np.stack([1 - x1, y0, 1 - x0, y1], axis=-1)
  return result
