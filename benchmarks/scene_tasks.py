"""What the tasks' models draw on held-out scenes, scored by the reader.

  python -m benchmarks.scene_tasks --workdir=RUN [--num=200 --steps=25]

A run of configs/layout_scenes.py, semantic_scenes.py, inpainting_scenes.py,
inpainting_text_scenes.py or super_resolution_scenes.py. Beside the model's
figures stand those of what needs no model: bicubic enlargement, holes filled
with the mean colour. --degradation and --masks give a run other inputs than it
was trained on. --canvas=32 joins 32 x 32 conditions side by side, draws one
image of them all, and scores its parts (semantic maps and small images).
"""

import dataclasses
import functools
import json
import math
import pathlib

import numpy as np
from absl import flags
from PIL import Image

import ldm_jax
from ldm_jax import cli
from ldm_jax.data import images as pixels
from ldm_jax.data import scene_reader, sources
from ldm_jax.evaluation import scene_tasks
from ldm_jax.evaluation.reconstruction import psnr
from ldm_jax.types import UserError

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'A run.', allow_override=True, required=True
)
_SPLIT = flags.DEFINE_string(
  'split', 'held_out', 'Of scenes.', allow_override=True
)
_NUM = flags.DEFINE_integer('num', 200, 'Scenes.', allow_override=True)
_STEPS = flags.DEFINE_integer('steps', 25, 'DDIM steps.', allow_override=True)
_GUIDANCE = flags.DEFINE_float(
  'guidance', 1.0, 'Classifier-free scale.', allow_override=True
)
_DEGRADATION = flags.DEFINE_string(
  'degradation', None, "Of low_res; the run's own.", allow_override=True
)
_MASKS = flags.DEFINE_string(
  'masks', None, "A setting of task.masks; the run's own.", allow_override=True
)
_CANVAS = flags.DEFINE_integer(
  'canvas', None, 'Scenes on a side of one image.', allow_override=True
)
_WINDOW = flags.DEFINE_integer(
  'window', None, 'As of sample.py.', allow_override=True
)
_TILE = flags.DEFINE_integer(
  'tile', None, 'As of sample.py.', allow_override=True
)
_OUT = flags.DEFINE_string(
  'out', None, 'A PNG to write the first 24 to.', allow_override=True
)


def layout(examples, given, drawn):
  del given
  boxes, labels = ([e[k] for e in examples] for k in ('boxes', 'box_labels'))
  return {'model': scene_tasks.layout_scores(drawn, boxes, labels)}


def semantic(examples, given, drawn):
  del examples
  maps = np.asarray(given['segmentation'])
  return {'model': scene_tasks.segmentation_scores(drawn, maps)}


def super_resolution(examples, given, drawn):
  size = drawn.shape[1:3]
  small = pixels.to_uint8(np.asarray(given['low_res']))
  bicubic = np.stack([_enlarged(image, size) for image in small])
  real = np.stack([e['image'] for e in examples])
  texts = [e['text'] for e in examples]
  return {
    name: {
      'psnr': float(psnr(real, found, 255).mean()),
      **scene_reader.scores(found, texts),
    }
    for name, found in (('model', drawn), ('bicubic', bicubic))
  }


def inpainting(examples, given, drawn):
  real = np.stack([e['image'] for e in examples])
  texts = [e['text'] for e in examples]
  hole = np.asarray(given['mask']) >= 0.5
  known = (real * ~hole).sum((1, 2)) / np.maximum((~hole).sum((1, 2)), 1)
  mean = np.where(hole, np.rint(known)[:, None, None], real).astype(np.uint8)
  error = lambda x: float(
    np.sum(np.square(1.0 * x - real) * hole) / (3 * hole.sum())
  )
  report = {
    name: {'hole_mse': error(found), **scene_reader.scores(found, texts)}
    for name, found in (('model', drawn), ('mean colour', mean))
  }
  report['known_pixels_changed'] = int(np.sum((drawn != real) & ~hole))
  return report


TASKS = {
  'layout': layout,
  'semantic': semantic,
  'super_resolution': super_resolution,
  'inpainting': inpainting,
  'inpainting_text': inpainting,
}


def main() -> int:
  ldm = ldm_jax.load(_WORKDIR.value)
  name = ldm.config.task.get('name')
  if name not in TASKS:
    raise UserError(
      f'{_WORKDIR.value} is a run of the task {name!r}; scored here are '
      f'{", ".join(TASKS)}.'
    )
  spec = ldm.parts.data
  source = sources.open_source(spec, _SPLIT.value)
  num = _CANVAS.value**2 if _CANVAS.value else _NUM.value
  examples = [source[index] for index in range(num)]
  changes = {'degradation': _DEGRADATION.value, 'masks': _MASKS.value}
  changes = {key: value for key, value in changes.items() if value}
  prepare = dataclasses.replace(ldm.parts.prepare, **changes)
  prepared = [
    prepare(
      {**example, 'image': pixels.to_float(example['image'])},
      np.random.default_rng(index),
    )
    for index, example in enumerate(examples)
  ]
  # Where holes are filled, the image is an input too.
  keys = set(prepared[0]) - (set() if 'mask' in prepared[0] else {'image'})
  given = {key: np.stack([p[key] for p in prepared]) for key in keys}
  draw = functools.partial(
    ldm.sample,
    steps=_STEPS.value,
    guidance=_GUIDANCE.value,
    batch_size=100,
    window=_WINDOW.value,
    tile=_TILE.value,
  )
  if _CANVAS.value:
    whole = draw(1, **{key: joined(x) for key, x in given.items()})
    drawn = parted(whole, num)
  else:
    drawn = draw(num, **given)
  report = TASKS[name](examples, given, drawn)
  print(json.dumps(report, indent=2))
  if _OUT.value and _CANVAS.value:
    pathlib.Path(_OUT.value).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(whole[0]).save(_OUT.value)
  elif _OUT.value:
    shown = ldm.parts.prepare.show(given, drawn.shape[1:3])[:24]
    rows = np.stack([shown, drawn[:24], [e['image'] for e in examples[:24]]])
    height, width = drawn.shape[1:3]
    sheet = rows.transpose(0, 2, 1, 3, 4).reshape(3 * height, -1, 3)
    pathlib.Path(_OUT.value).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).resize((48 * width, 6 * height), 0).save(_OUT.value)
  return 0


def joined(x: np.ndarray) -> np.ndarray:
  """[n * n h w ..], row by row, as one: [1 n * h n * w ..]."""
  n, (h, w, *channels) = math.isqrt(len(x)), x.shape[1:]
  x = np.moveaxis(x.reshape(n, n, h, w, *channels), 2, 1)
  return x.reshape(1, n * h, n * w, *channels)


def parted(x: np.ndarray, num: int) -> np.ndarray:
  """The inverse: [1 H W C] as [num h w C]."""
  n, (height, width, channels) = math.isqrt(num), x.shape[1:]
  x = x.reshape(n, height // n, n, width // n, channels)
  return np.moveaxis(x, 2, 1).reshape(num, height // n, width // n, channels)


def _enlarged(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  height, width = size
  bicubic = Image.Resampling.BICUBIC
  return np.asarray(Image.fromarray(image).resize((width, height), bicubic))


if __name__ == '__main__':
  cli.run(main)
