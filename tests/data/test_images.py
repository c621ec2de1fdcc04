"""Decoding: odd but valid images come out right, damaged ones are refused."""

import errno
import io

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from ldm_jax.data import images


def encoded(image: Image.Image, kind: str = 'PNG', **options) -> bytes:
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def picture(height=24, width=32, channels=3, seed=0) -> np.ndarray:
  shape = (height, width, channels) if channels > 1 else (height, width)
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def smooth(height=48, width=64) -> Image.Image:
  """What JPEG keeps nearly as it was."""
  y, x = np.mgrid[0:height, 0:width].astype(np.float32)
  rgb = np.stack([x * 255 / width, y * 255 / height, 0 * x + 90], axis=-1)
  return Image.fromarray(rgb.astype(np.uint8))


# Odd but valid.


@pytest.mark.parametrize('kind', ['PNG', 'WEBP'])
def test_lossless_rgb_comes_back_exactly(kind):
  pixels = picture()
  content = encoded(Image.fromarray(pixels), kind, lossless=True)
  np.testing.assert_array_equal(images.decode(content), pixels)


@pytest.mark.parametrize('progressive', [False, True])
@pytest.mark.parametrize('kind', ['JPEG', 'WEBP'])
def test_lossy_rgb_comes_back_closely(kind, progressive):
  content = encoded(smooth(), kind, quality=95, progressive=progressive)
  difference = images.decode(content).astype(int) - np.asarray(smooth())
  assert np.abs(difference).mean() < 3


def test_grey_is_repeated():
  pixels = picture(channels=1)
  decoded = images.decode(encoded(Image.fromarray(pixels)))
  np.testing.assert_array_equal(decoded, np.stack([pixels] * 3, axis=-1))


def test_one_bit_is_black_and_white():
  pixels = picture(channels=1) > 127
  decoded = images.decode(encoded(Image.fromarray(pixels)))
  np.testing.assert_array_equal(decoded[..., 1], pixels * np.uint8(255))


def test_sixteen_bit_grey_is_scaled_not_clipped():
  pixels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
  decoded = images.decode(encoded(Image.fromarray(pixels)))
  np.testing.assert_array_equal(decoded[..., 0].ravel(), np.arange(256))


def test_palette_gives_its_colours():
  image = Image.fromarray(picture()).quantize(16)
  expected = np.asarray(image.convert('RGB'))
  np.testing.assert_array_equal(images.decode(encoded(image)), expected)


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_transparency_is_composited_on_white(mode):
  pixels = np.full((4, 3, 2 if mode == 'LA' else 4), 100, np.uint8)
  pixels[0, ..., -1], pixels[1, ..., -1], pixels[2:, ..., -1] = 0, 51, 255
  image = Image.fromarray(pixels, mode=None)
  assert image.mode == mode
  decoded = images.decode(encoded(image))
  assert (decoded[0] == 255).all()
  assert np.abs(decoded[1].astype(int) - (0.2 * 100 + 0.8 * 255)).max() <= 1
  assert (decoded[2:] == 100).all()


def test_a_transparent_palette_entry_is_white():
  image = Image.fromarray(np.uint8([[0, 1], [1, 0]]), mode=None).convert('P')
  image.putpalette([10, 20, 30, 40, 50, 60])
  decoded = images.decode(encoded(image, transparency=0))
  assert (decoded[0, 0] == 255).all()
  assert decoded[0, 1].tolist() == [40, 50, 60]


def test_cmyk_is_not_inverted():
  image = Image.new('CMYK', (32, 32), (255, 0, 0, 0))  # Pure cyan.
  red, green, blue = images.decode(encoded(image, 'JPEG', quality=95))[8, 8]
  assert red < 12 and green > 243 and blue > 243


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_orientation_is_applied(kind, orientation):
  image = smooth()
  exif = Image.Exif()
  exif[0x0112] = orientation
  content = encoded(image, kind, exif=exif, quality=95)
  upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
  np.testing.assert_array_equal(
    images.decode(content), np.asarray(upright.convert('RGB'))
  )
  assert (images.decode(content).shape[:2] == (48, 64)) == (orientation < 5)


def test_broken_exif_does_not_spoil_an_image():
  pixels = picture()
  content = encoded(Image.fromarray(pixels), exif=b'Exif\0\0II*\0\xff\xff\xff')
  np.testing.assert_array_equal(images.decode(content), pixels)


def test_the_first_frame_of_an_animation_is_taken():
  frames = [Image.fromarray(picture(seed=s)) for s in range(3)]
  for kind in ('PNG', 'WEBP'):
    content = encoded(
      frames[0], kind, save_all=True, append_images=frames[1:], lossless=True
    )
    np.testing.assert_array_equal(images.decode(content), np.asarray(frames[0]))


def test_bytes_after_the_end_do_no_harm():
  for kind in ('JPEG', 'PNG'):
    content = encoded(smooth(), kind)
    np.testing.assert_array_equal(
      images.decode(content + b'\0' * 100), images.decode(content)
    )


def test_the_name_of_a_file_does_not_matter(tmp_path):
  pixels = picture()
  (tmp_path / 'a.jpg').write_bytes(encoded(Image.fromarray(pixels)))
  np.testing.assert_array_equal(images.read(tmp_path / 'a.jpg'), pixels)


# Damaged or refused.


def zero_filled(content: bytes) -> bytes:
  return content[: len(content) // 2] + bytes(len(content) - len(content) // 2)


def flipped_in_the_middle(content: bytes) -> bytes:
  middle = len(content) // 2
  return content[:middle] + bytes([content[middle] ^ 8]) + content[middle + 1 :]


NOISE = Image.fromarray(picture(64, 64))


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP'])
@pytest.mark.parametrize('share', [0.02, 0.3, 0.6, 0.95])
def test_a_truncated_image_is_refused(kind, share):
  content = encoded(NOISE, kind)
  with pytest.raises(images.BadImage):
    images.decode(content[: int(len(content) * share)])


# WEBP has neither checksums nor an end marker, so there it goes unnoticed.
@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
def test_an_image_filled_up_with_zeros_is_refused(kind):
  with pytest.raises(images.BadImage):
    images.decode(zero_filled(encoded(NOISE, kind)))


def test_a_flipped_bit_in_a_png_is_noticed():
  with pytest.raises(images.BadImage, match='checksum'):
    images.decode(flipped_in_the_middle(encoded(NOISE)))


@pytest.mark.parametrize('kind', ['GIF', 'BMP', 'TIFF', 'PPM', 'ICO'])
def test_other_formats_are_refused(kind):
  with pytest.raises(images.BadImage, match='not a PNG, JPEG or WEBP'):
    images.decode(encoded(NOISE, kind))


@pytest.mark.parametrize('content', [b'', b'hello', bytes(1000), b'\x89PNG'])
def test_what_is_no_image_is_refused(content):
  with pytest.raises(images.BadImage):
    images.decode(content)


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
  monkeypatch.setattr(Image.Image, 'load', lambda *_: pytest.fail('decoded'))
  bomb = encoded_bomb(8000, 8000)
  assert len(bomb) < 200
  with pytest.raises(images.BadImage, match='8000x8000'):
    images.decode(bomb)


def encoded_bomb(width: int, height: int) -> bytes:
  """A PNG that claims to be large."""
  header = (
    width.to_bytes(4, 'big')
    + height.to_bytes(4, 'big')
    + bytes([8, 2, 0, 0, 0])
  )
  file = io.BytesIO()
  file.write(b'\x89PNG\r\n\x1a\n')
  PngImagePlugin.putchunk(file, b'IHDR', header)
  PngImagePlugin.putchunk(file, b'IDAT', b'')
  PngImagePlugin.putchunk(file, b'IEND', b'')
  return file.getvalue()


def test_a_missing_file_is_a_bad_image_with_a_reason(tmp_path):
  with pytest.raises(images.BadImage, match='No such file'):
    images.read(tmp_path / 'none.png')


def test_a_failing_file_system_is_asked_again(tmp_path, monkeypatch):
  path = tmp_path / 'a.png'
  path.write_bytes(encoded(NOISE))
  real, calls = images._content, []

  def failing_once(path):
    calls.append(path)
    if len(calls) == 1:
      raise OSError(errno.EIO, 'input/output error')
    return real(path)

  monkeypatch.setattr(images, '_content', failing_once)
  monkeypatch.setattr(images, '_RETRIES', (0.0,))
  assert images.read(path).shape == (64, 64, 3)
  assert len(calls) == 2


def test_too_many_open_files_is_no_fault_of_the_image(monkeypatch):
  def out_of_handles(path):
    raise OSError(errno.EMFILE, 'Too many open files')

  monkeypatch.setattr(images, '_content', out_of_handles)
  with pytest.raises(OSError, match='Too many'):
    images.read('a.png')


# Numbers.


def test_float_and_back_is_exact():
  levels = np.arange(256, dtype=np.uint8)
  scaled = images.to_float(levels)
  assert scaled.dtype == np.float32
  assert scaled[0] == -1 and abs(scaled[-1] - 1) < 1e-6
  np.testing.assert_array_equal(images.to_uint8(scaled), levels)
  assert images.to_uint8(np.float32([-3, 3])).tolist() == [0, 255]


# Maps.


def test_maps_keep_their_numbers_whatever_their_colours():
  numbers = picture(channels=1) % 7
  shown = Image.fromarray(numbers).convert('P')
  shown.putdata(numbers.ravel().tolist())
  shown.putpalette([200, 10, 30] * 7)
  wide = Image.fromarray(numbers.astype(np.uint16) + 300)
  for image, expected in ((shown, numbers), (wide, numbers.astype(int) + 300)):
    decoded = images.decode(encoded(image), as_map=True)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, expected)


def test_photographs_are_no_maps():
  for content in (
    encoded(Image.fromarray(picture())),
    encoded(Image.fromarray(picture(channels=1)), 'JPEG'),
  ):
    with pytest.raises(images.BadImage, match='class'):
      images.decode(content, as_map=True)
