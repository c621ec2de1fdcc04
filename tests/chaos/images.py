"""10,000 images of which 1% are abnormal in twelve ways, read by a run."""

import io
import itertools
import json
import pathlib
import random

import numpy as np
from PIL import Image

from ldm_jax.data import folder as folders
from ldm_jax.data import pipeline
from ldm_jax.data.spec import DataSpec

COUNT, SIDE = 10_000, 16


def bad_images(folder: pathlib.Path, rng: random.Random):
  """The unusable are named once, the odd are read, the rest stay in place."""
  for number in range(1000):
    root = folder / str(number)
    unusable = write(root, rng)
    spec = DataSpec('folder', SIDE, path=str(root))
    source = folders.read_folder(str(root))
    whole = read(source, spec, 100, 0, folder / f'log_{number}')
    lines = (folder / f'log_{number}' / 'quarantine.jsonl').read_text()
    named = {json.loads(line)['path'] for line in lines.splitlines()}
    assert named == unusable, named ^ unusable
    assert all(json.loads(line)['reason'] for line in lines.splitlines())
    # Other batches, read from the middle on: the same examples.
    half = read(source, spec, 50, COUNT // 2)
    np.testing.assert_array_equal(half, whole[COUNT // 2 :])
    yield f'{len(unusable)} of {COUNT} unusable'


def read(source, spec, batch, start, log=''):
  """[N 2]: the example ids of an epoch from `start` on, and a sum of each."""
  if log:
    log.mkdir()
  stream = pipeline.train_stream(
    source,
    keep_image,
    spec,
    batch_size=batch,
    seed=0,
    start=start,
    quarantine_dir=str(log),
  )
  rows = []
  for found in itertools.islice(stream, (COUNT - start) // batch):
    sums = found['image'].astype(np.float64).sum((1, 2, 3))
    rows.append(np.stack([found['example_id'], sums], -1))
  stream.close()
  return np.concatenate(rows)


def keep_image(example, rng):
  del rng
  return {'image': example['image']}


def write(root: pathlib.Path, rng: random.Random) -> set[str]:
  """Writes the images; returns the paths of those that cannot be used."""
  root.mkdir(parents=True)
  pixels = np.random.default_rng(rng.randrange(2**32)).integers(
    0, 256, (COUNT, SIDE, SIDE, 3), np.uint8
  )
  chosen = rng.sample(range(COUNT), COUNT // 100)
  ways = dict(zip(chosen, itertools.cycle(WAYS)))
  unusable = set()
  for i in range(COUNT):
    path = root / f'{i:05}.png'
    image = Image.fromarray(pixels[i])
    way, usable = ways.get(i, (encoded, True))
    path.write_bytes(way(image))
    if not usable:
      unusable.add(str(path))
  return unusable


def encoded(image: Image.Image, kind: str = 'PNG', **options) -> bytes:
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def cut(image):
  return encoded(image)[:200]


def flipped(image):
  data = bytearray(encoded(image))
  data[len(data) // 2] ^= 1
  return bytes(data)


def turned(image):
  exif = Image.Exif()
  exif[0x0112] = 6
  return encoded(image, 'JPEG', exif=exif)


WAYS = (
  (cut, False),
  (flipped, False),
  (lambda image: b'', False),
  (lambda image: b'hello', False),
  (lambda image: encoded(image, 'GIF'), False),
  (lambda image: encoded(image, 'BMP'), False),
  (lambda image: encoded(image.resize((8, 8))), False),  # below data.size
  (lambda image: encoded(image.convert('L')), True),
  (lambda image: encoded(image.convert('P')), True),
  (lambda image: encoded(image.convert('RGBA')), True),
  (lambda image: encoded(image.convert('CMYK'), 'JPEG'), True),
  (turned, True),
)
