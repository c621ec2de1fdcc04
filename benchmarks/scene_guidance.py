"""How far guides bring a model that is told nothing, by scale, on scenes.

  python -m benchmarks.scene_guidance --workdir=RUN --classifier=CLASSIFIER \
    --scales=0,1,3,10
  python -m benchmarks.scene_guidance --workdir=RUN --target=downsampling \
    --scales=0,0.3,1,3
  python -m benchmarks.scene_guidance --workdir=RUN --target=mask

RUN is a run of configs/unconditional_scenes.py (or text_scenes.py, given no
text), CLASSIFIER one of configs/classifier_scenes.py. Towards classes, the
reader says what share of the images is of the class, the colour and the shape
that were asked for. Towards images that no training saw, the figure is the PSNR
of T(sample) to T(target): T shrinks four times, or keeps the left half.
"""

import json
import pathlib

import numpy as np
from absl import flags
from PIL import Image

import ldm_jax
from ldm_jax import cli, guides
from ldm_jax.data import images as pixels
from ldm_jax.data import scene_reader, scenes
from ldm_jax.evaluation.reconstruction import psnr
from ldm_jax.types import UserError

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'A run.', allow_override=True, required=True
)
_CLASSIFIER = flags.DEFINE_string(
  'classifier', None, "A classifier's run.", allow_override=True
)
_TARGET = flags.DEFINE_enum(
  'target', None, ['downsampling', 'mask'], 'What T is.', allow_override=True
)
_SCALES = flags.DEFINE_list('scales', ['0', '0.3', '1', '3'], 'Of the guide.')
_NUM = flags.DEFINE_integer('num', 80, 'Images.', allow_override=True)
_STEPS = flags.DEFINE_integer('steps', 25, 'Steps.', allow_override=True)
_SAMPLER = flags.DEFINE_string(
  'sampler', 'ddim', 'As of sample.py.', allow_override=True
)
_ETA = flags.DEFINE_float('eta', 0.0, 'As of sample.py.', allow_override=True)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'A PNG to write the first 12 to: targets, where there are any, then a row '
  'for each scale.',
  allow_override=True,
)


def main() -> int:
  if (_CLASSIFIER.value is None) == (_TARGET.value is None):
    raise UserError('Give --classifier=RUN, or --target=downsampling or mask.')
  ldm = ldm_jax.load(_WORKDIR.value)
  nothing = {'text': ''} if 'text' in ldm.parts.prepare.needs else {}
  num, report, rows = _NUM.value, {}, []
  if _TARGET.value:
    side = ldm.parts.data.size
    source = scenes.Scenes(size=side, split='held_out')
    real = np.stack([source[i]['image'] for i in range(num)])
    rows.append(real)
  else:
    labels = np.arange(num) % scenes.NUM_LABELS
  for text in _SCALES.value:
    scale = float(text)
    if _TARGET.value:
      guide = towards_image(real, scale)
    else:
      guide = guides.to_class(ldm, _CLASSIFIER.value, labels, scale)
    drawn = ldm.sample(
      num,
      steps=_STEPS.value,
      sampler=_SAMPLER.value,
      eta=_ETA.value,
      batch_size=40,
      guides=[guide],
      **nothing,
    )
    rows.append(drawn)
    if _TARGET.value:
      report[text] = {'psnr': likeness(drawn, real)}
    else:
      report[text] = classes_found(drawn, labels)
    print(text, json.dumps(report[text]), flush=True)
  if _OUT.value:
    write(rows)
  return 0


def _left(side: int) -> np.ndarray:
  mask = np.zeros((side, side, 1), np.uint8)
  mask[:, : side // 2] = 1
  return mask


def towards_image(real: np.ndarray, scale: float):
  if _TARGET.value == 'mask':
    masks = np.stack([_left(real.shape[1])] * len(real))
    return guides.to_image(real, scale, mask=masks)
  return guides.to_image(real, scale, guides.Downsampled(4))


def likeness(drawn: np.ndarray, real: np.ndarray) -> float:
  """Mean PSNR in dB of T(drawn) to T(real), both uint8 [N H W 3]."""
  if _TARGET.value == 'mask':
    seen = lambda x: x[:, :, : x.shape[2] // 2]
  else:
    seen = guides.Downsampled(4)
  a, b = (np.asarray(seen(pixels.to_float(x))) for x in (drawn, real))
  return float(psnr(a, b, 2.0).mean())


def classes_found(drawn: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """What share of the images shows, largest, a thing of its class."""
  names = [scenes.label_name(label).split() for label in labels]
  found = [next(iter(scene_reader.read(image)), None) for image in drawn]
  pairs = list(zip(names, found, strict=True))
  hits = {
    'colour': [s is not None and s.colour == name[0] for name, s in pairs],
    'shape': [s is not None and s.shape == name[1] for name, s in pairs],
  }
  hits['class'] = np.logical_and(*hits.values())
  return {aspect: float(np.mean(right)) for aspect, right in hits.items()}


def write(rows: list[np.ndarray]) -> None:
  sheet = np.concatenate([np.concatenate(row[:12], 1) for row in rows], 0)
  height, width = sheet.shape[:2]
  pathlib.Path(_OUT.value).parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(sheet).resize((2 * width, 2 * height), 0).save(_OUT.value)


if __name__ == '__main__':
  cli.run(main)
