"""Samples from a trained run: PNGs, a grid, and a page to look at them.

  python sample.py --workdir=runs/text --out=out --guidance=3 \
      --prompt='a red circle in the top left'
  python sample.py --workdir=runs/text --out=out --num=200 --inputs=test
"""

import time

import numpy as np
from absl import flags

import ldm_jax
from ldm_jax import cli
from ldm_jax.data import pipeline as data
from ldm_jax.data import sources
from ldm_jax.evaluation.gallery import Gallery
from ldm_jax.types import UserError

_WORKDIR = flags.DEFINE_string('workdir', None, 'A run.')
_OUT = flags.DEFINE_string('out', None, 'The folder to write.')
_STEP = flags.DEFINE_integer('step', None, 'Checkpoint; the newest if unset.')
_NUM = flags.DEFINE_integer('num', 16, 'Number of images.')
_STEPS = flags.DEFINE_integer('steps', 50, 'Sampling steps.')
_SAMPLER = flags.DEFINE_string('sampler', 'ddim', 'ddim or plms.')
_SPACING = flags.DEFINE_string(
    'spacing', 'leading', 'Timesteps: leading, trailing or compvis.'
)
_ETA = flags.DEFINE_float('eta', 0.0, '0 deterministic, 1 ancestral.')
_GUIDANCE = flags.DEFINE_float(
    'guidance', 1.0, 'Classifier-free scale; 1 is the conditional model.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Decides all noise.')
_SIZE = flags.DEFINE_string('size', None, 'HEIGHTxWIDTH in pixels.')
_BATCH = flags.DEFINE_integer('batch_size', 64, 'Images at once.')
_METADATA = flags.DEFINE_bool(
    'metadata', True, 'Write seed, settings and condition into the PNGs.'
)
_INPUTS = flags.DEFINE_string(
    'inputs', None, 'Take conditions from this split of the run\'s data.'
)
_PROMPT = flags.DEFINE_multi_string('prompt', None, 'Text; repeatable.')
_LABEL = flags.DEFINE_multi_integer('label', None, 'Class; repeatable.')


def main() -> int:
  for name in ('workdir', 'out'):
    if flags.FLAGS[name].value is None:
      raise UserError(f'--{name} is missing.')
  ldm = ldm_jax.load(_WORKDIR.value, _STEP.value)
  shown, inputs = task_inputs(ldm, _NUM.value)
  settings = {
      'steps': _STEPS.value,
      'sampler': _SAMPLER.value,
      'spacing': _SPACING.value,
      'eta': _ETA.value,
      'guidance': _GUIDANCE.value,
      'seed': _SEED.value,
  }
  batches = ldm.sample_batches(
      _NUM.value,
      size=parse_size(_SIZE.value),
      batch_size=_BATCH.value,
      **settings,
      **inputs,
  )
  gallery = Gallery(_OUT.value, f'Samples of {_WORKDIR.value}', _METADATA.value)
  begin, done = time.monotonic(), 0
  for images in batches:
    for image in images:
      about = {k: v[done] for k, v in shown.items()}
      gallery.add(image, {**about, 'number': done, **settings})
      done += 1
    rate = done / (time.monotonic() - begin)
    print(f'{done}/{_NUM.value} images, {rate:.2f} images/s, compiling included')
  print(f'Gallery: {gallery.close()}')
  return 0


def task_inputs(ldm, num: int) -> tuple[dict[str, list], dict[str, list]]:
  """(what the gallery says of each image, the pipeline's inputs)."""
  flagged = {'text': _PROMPT.value, 'label': _LABEL.value}
  given = {k: v for k, v in flagged.items() if v is not None}
  if _INPUTS.value:
    if given:
      raise UserError(f'--inputs and --{next(iter(given))} exclude each other.')
    given = from_data(ldm, num, _INPUTS.value)
  elif any(len(v) not in (1, num) for v in given.values()):
    # Several prompts are taken in turn.
    given = {k: [v[i % len(v)] for i in range(num)] for k, v in given.items()}
  given = {k: v * num if len(v) == 1 else v for k, v in given.items()}
  return given, given


def from_data(ldm, num: int, split: str) -> dict[str, list]:
  """The conditions of a split's first `num` examples, as users write them."""
  source = sources.open_source(ldm.parts.data, split)
  if len(source) < num:
    raise UserError(
        f'--inputs={split} has {len(source)} examples; --num={num} is more.'
    )
  examples = [source[i] for i in range(num)]
  return {
      key: [np.asarray(e[key]).tolist() for e in examples]
      for key in ldm.parts.prepare.needs
  }


def parse_size(text: str | None) -> tuple[int, int] | None:
  if text is None:
    return None
  sides = text.lower().split('x')
  if len(sides) != 2 or not all(s.isdigit() and int(s) > 0 for s in sides):
    raise UserError(f'--size={text} must be HEIGHTxWIDTH, such as 256x512.')
  return int(sides[0]), int(sides[1])


if __name__ == '__main__':
  cli.run(main)
