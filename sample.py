"""Samples from a trained run: PNGs, a grid, and a page to look at them.

  python sample.py --workdir=runs/text --out=out --guidance=3 \
      --prompt='a red circle in the top left'
  python sample.py --workdir=runs/text --out=out --num=200 --inputs=test
  python sample.py --workdir=runs/holes --out=out --image=a.png --mask=b.png
  python sample.py --workdir=runs/text --out=out --image=a.png --strength=0.6
"""

import dataclasses
import functools
import os
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

import ldm_jax
from ldm_jax import cli, guides, sampling_flags
from ldm_jax.data import given as files
from ldm_jax.data import sources
from ldm_jax.data.spec import DataSpec
from ldm_jax.evaluation.gallery import Gallery
from ldm_jax.splits import open_split
from ldm_jax.task_inputs import keys
from ldm_jax.training import launcher
from ldm_jax.types import UserError

flags.adopt_module_key_flags(sampling_flags)
_WORKDIR = cli.string('workdir', None, 'A run.')
_OUT = cli.string('out', None, 'The folder to write.')
_STEP = cli.integer('step', None, 'Checkpoint; the newest if unset.')
_NUM = cli.integer(
  'num',
  None,
  'Number of images; 16, or as many as files are given.',
  lower_bound=1,
)
_SEED = cli.integer('seed', 0, 'Decides all noise.')
_SIZE = cli.string('size', None, 'HEIGHTxWIDTH in pixels.')
_BATCH = cli.integer('batch_size', 64, 'Images at once.', lower_bound=1)
_METADATA = cli.boolean(
  'metadata', True, 'Write seed, settings and condition into the PNGs.'
)
_INPUTS = cli.string(
  'inputs', None, "Take conditions from this split of the run's data."
)
_PROMPT = flags.DEFINE_multi_string('prompt', None, 'Text; repeatable.')
_LABEL = flags.DEFINE_multi_integer('label', None, 'Class; repeatable.')
_LAYOUT = cli.string(
  'layout', None, 'JSON: {"boxes": [[x0, y0, x1, y1], ...], "labels": [...]}.'
)
_SEGMENTATION = cli.string(
  'segmentation', None, 'Map of classes: a PNG, or a folder of them.'
)
_IMAGE = cli.string(
  'image',
  None,
  'Image to fill in, enlarge or begin from: a file, a folder, or a folder '
  'of a.png and a_mask.png.',
)
_MASK = cli.string(
  'mask', None, 'Mask, bright where to fill: a file or a folder.'
)
_STRENGTH = cli.number(
  'strength', None, 'How much of --image is drawn anew, from 0 to 1.'
)
_OUTPAINT = cli.strings(
  'outpaint', None, 'Pixels to draw around --image: TOP,RIGHT,BOTTOM,LEFT.'
)
_TILE = cli.integer(
  'tile', None, 'Decode (and encode) in tiles of so many pixels.'
)
_WINDOW = cli.integer('window', None, 'Denoise in windows of so many pixels.')
_WINDOW_OVERLAP = cli.integer(
  'window_overlap', None, 'By how many pixels windows overlap; a quarter.'
)
_CLASSIFIER = cli.string(
  'classifier', None, "A classifier's run, which guides to --label."
)
_CLASSIFIER_SCALE = cli.number(
  'classifier_scale', 1.0, "Of --classifier's gradient; 0 is none."
)
_TARGET = cli.string(
  'target', None, 'Image, or folder of them, to guide to; docs/guidance.md.'
)
_TARGET_SCALE = cli.number(
  'target_scale', 1.0, "Of --target's gradient; 0 is none."
)
_TARGET_DOWNSAMPLING = cli.integer(
  'target_downsampling', 1, '--target counts so many times smaller.'
)
_TARGET_MASK = cli.string(
  'target_mask', None, 'Bright where --target counts: a file or a folder.'
)
_TARGET_LPIPS = cli.string(
  'target_lpips', None, 'File or folder of LPIPS: --target counts by it.'
)

# Inputs of every run, whatever its task: an image begun from.
OF_ALL = ('image', 'mask')
# Labels that the gallery tells; the rest is in pictures.
TOLD = ('text', 'label', 'boxes', 'box_labels')


def main() -> int:
  launcher.check_alone()
  for name in ('workdir', 'out'):
    if flags.FLAGS[name].value is None:
      raise UserError(f'--{name} is missing.')
  ldm = ldm_jax.load(_WORKDIR.value, _STEP.value)
  size = cli.size(_SIZE.value)
  ldm.parts.check_draws()
  settings, others = sampling_flags.settings(), others_of_flags()
  told = {'seed': _SEED.value, **settings.about()}
  told |= {k: v for k, v in others.items() if v is not None}
  # Where the task is told a file's image, it is told the larger one.
  own = 'image' in keys(ldm.parts) and not _INPUTS.value
  outpaint = others.pop('outpaint') if own else None
  num, shown, inputs = task_inputs(ldm, size, outpaint)
  batches = ldm.sample_batches(
    num,
    size=size,
    batch_size=_BATCH.value,
    guides=guides_of_flags(ldm, num, size),
    seed=_SEED.value,
    **dataclasses.asdict(settings),
    **others,
    **inputs,
  )
  gallery = Gallery(_OUT.value, f'Samples of {_WORKDIR.value}', _METADATA.value)
  begin, done = time.monotonic(), 0
  for images in batches:
    for image in images:
      about = {k: v[done] for k, v in shown.items()}
      picture = condition_picture(ldm, inputs, done, image.shape[:2])
      gallery.add(image, {**about, 'number': done, **told}, picture)
      done += 1
    rate = done / (time.monotonic() - begin)
    print(f'{done}/{num} images, {rate:.2f} images/s, compiling included')
  print(f'Gallery: {gallery.close()}')
  return 0


def others_of_flags() -> dict:
  """What sampling takes beside its settings and the task's inputs."""
  outpaint = _OUTPAINT.value
  try:
    outpaint = outpaint and tuple(int(side) for side in outpaint)
  except ValueError:
    raise UserError(
      f'--outpaint={",".join(outpaint)} must be four numbers of pixels: '
      'TOP,RIGHT,BOTTOM,LEFT.'
    ) from None
  return {
    'strength': _STRENGTH.value,
    'outpaint': outpaint or None,
    'tile': _TILE.value,
    'window': _WINDOW.value,
    'window_overlap': _WINDOW_OVERLAP.value,
  }


def guides_of_flags(ldm, num: int, size) -> list:
  """Guides to --label and to --target; see ldm_jax.guides."""
  found = []
  of_each = lambda values: np.stack(
    [values[i % len(values)] for i in range(num)]
  )
  if _CLASSIFIER.value:
    if not _LABEL.value:
      raise UserError('--classifier needs the class to guide to: --label.')
    found.append(
      guides.to_class(
        ldm, _CLASSIFIER.value, of_each(_LABEL.value), _CLASSIFIER_SCALE.value
      )
    )
  if not _TARGET.value:
    return found
  size = size or (ldm.parts.data.size,) * 2
  fit = lambda images, **how: of_each(
    [files.fit(x, size, **how) for x in images]
  )
  targets = files.pictures('--target', _TARGET.value)
  mask = lpips = None
  if _TARGET_MASK.value:
    mask = files.masks('--target_mask', _TARGET_MASK.value)
    check_masks('--target', targets, mask)
    mask = fit(mask, nearest=True)
  if _TARGET_LPIPS.value:
    lpips = guides.read_lpips(_TARGET_LPIPS.value)
  factor = _TARGET_DOWNSAMPLING.value
  if factor < 1:
    raise UserError(f'--target_downsampling={factor} must be 1 or more.')
  found.append(
    guides.to_image(
      fit(targets),
      _TARGET_SCALE.value,
      guides.identity if factor == 1 else guides.Downsampled(factor),
      mask,
      lpips,
    )
  )
  return found


def task_inputs(
  ldm, size: tuple[int, int] | None, outpaint: Sequence[int] | None
) -> tuple[int, dict[str, list], dict]:
  """(how many, what the gallery says of each, the task's arrays of each).

  `outpaint`: of an image that is the task's own.
  """
  flagged = {'text': _PROMPT.value, 'label': _LABEL.value}
  if _CLASSIFIER.value and 'label' not in ldm.parts.prepare.needs:
    del flagged['label']  # The classifier's.
  given = {k: v for k, v in flagged.items() if v is not None}
  given |= (stored := from_files(ldm, size))
  if _INPUTS.value:
    if given:
      raise UserError(f'--inputs and {next(iter(given))!r} exclude each other.')
    num, spec = _NUM.value or 16, ldm.parts.data
    source = open_split(spec, _INPUTS.value, '--inputs')
    told, inputs = files.conditions(
      source, ldm.parts.prepare, spec, num, _SEED.value
    )
    return num, told, inputs
  shown = [len(v) for v in stored.values()] or [16]
  num = _NUM.value or max([*shown, *map(len, given.values())])
  # Several prompts, or files, are taken in turn.
  given = {k: [v[i % len(v)] for i in range(num)] for k, v in given.items()}
  told = {
    k: [np.asarray(one).tolist() for one in v]
    for k, v in given.items()
    if k in TOLD
  }
  own = keys(ldm.parts)
  edited = {k: np.stack(given.pop(k)) for k in OF_ALL
            if k in given and k not in own}  # fmt: skip
  return num, told, {**ldm.inputs(num, given, outpaint), **edited}


def from_files(ldm, size: tuple[int, int] | None) -> dict:
  """What --layout, --segmentation, --image and --mask give."""
  given = {}
  if _LAYOUT.value:
    classes = Classes(ldm.parts.data)
    given['boxes'], given['box_labels'] = files.layouts(_LAYOUT.value, classes)
  fit = lambda flag, found, **how: files.same_size(
    flag,
    [files.fit(x, size, **how) for x in found] if size else found,
    'give --size=HEIGHTxWIDTH to bring all to one size',
  )
  if _SEGMENTATION.value:
    found = files.maps('--segmentation', _SEGMENTATION.value)
    given['segmentation'] = fit('--segmentation', found, nearest=True)
  if _IMAGE.value and 'low_res' in keys(ldm.parts):
    found = files.pictures('--image', _IMAGE.value)
    given['low_res'] = files.same_size(
      '--image', found, 'a run that enlarges takes images of one size at once'
    )
  elif _IMAGE.value:
    alone = _STRENGTH.value is not None or _OUTPAINT.value
    if not (_MASK.value or alone) and os.path.isdir(_IMAGE.value):
      found, masks = files.image_mask_pairs(_IMAGE.value)
    else:
      found = files.pictures('--image', _IMAGE.value)
      masks = files.masks('--mask', _MASK.value) if _MASK.value else []
    given['image'] = fit('--image', found)
    if masks:
      check_masks('--image', found, masks)
      given['mask'] = fit('--mask', masks, nearest=True)
  elif _MASK.value:
    found = files.masks('--mask', _MASK.value)
    given['mask'] = fit('--mask', found, nearest=True)
  return given


def check_masks(flag: str, images: list, masks: list) -> None:
  """Raises UserError where a mask is not of its image's size, as stored."""
  for i in range(max(len(images), len(masks))):
    (a, b), (c, d) = (x[i % len(x)].shape[:2] for x in (images, masks))
    if (a, b) != (c, d):
      raise UserError(
        f'{flag}: a mask of {c}x{d} for an image of {a}x{b}; they must be the '
        'same.'
      )


class Classes(Sequence):
  """Their names in a run's data, which is opened when one is looked up."""

  def __init__(self, spec: DataSpec):
    self._spec = spec

  @functools.cached_property
  def _names(self) -> Sequence[str]:
    names = None
    if self._spec.source == 'scenes' or self._spec.path:
      source = sources.open_source(self._spec, self._spec.eval_split)
      names = getattr(source, 'classes', None)
    if names is None:
      raise UserError(
        "--layout names classes, and the run's data is not here to say their "
        'numbers; use numbers.'
      )
    return names

  def __len__(self) -> int:
    return len(self._names)

  def __getitem__(self, index):
    return self._names[index]


def condition_picture(ldm, inputs: dict, number: int, size):
  """What an image was drawn from, as a picture; None where there is none."""
  if 'image' in inputs and 'image' not in keys(ldm.parts):
    return inputs['image'][number]
  if not hasattr(ldm.parts.prepare, 'show'):
    return None
  one = {k: v[number : number + 1] for k, v in inputs.items()}
  return ldm.parts.prepare.show(one, size)[0]


if __name__ == '__main__':
  cli.run(main)
