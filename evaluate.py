"""Measures a run, or a folder of samples.

python evaluate.py --workdir=runs/kl --metrics=psnr
python evaluate.py --samples=out --metrics=scene_accuracy
"""

import json
import pathlib

import numpy as np
from absl import flags

import ldm_jax
from ldm_jax import cli
from ldm_jax.data import pipeline as data
from ldm_jax.data import sources
from ldm_jax.evaluation import gallery, reconstruction, scene_accuracy
from ldm_jax.types import UserError

_WORKDIR = flags.DEFINE_string('workdir', None, 'A run.', allow_override=True)
_SAMPLES = flags.DEFINE_string('samples', None, 'A folder sample.py wrote.')
_METRICS = flags.DEFINE_list('metrics', None, 'psnr, scene_accuracy.')
_NUM = flags.DEFINE_integer(
  'num', 1000, 'Held-out images for psnr.', allow_override=True
)
_BATCH = flags.DEFINE_integer(
  'batch_size', 50, 'Images at once.', allow_override=True
)


def main() -> int:
  table = {'psnr': measure_psnr, 'scene_accuracy': measure_scenes}
  if not _METRICS.value:
    raise UserError(f'--metrics is missing; known: {", ".join(table)}.')
  for name in _METRICS.value:
    if name not in table:
      raise UserError(
        f'--metrics={name!r} is unknown; known: {", ".join(table)}.'
      )
  report = {name: table[name]() for name in _METRICS.value}
  folder = pathlib.Path(_WORKDIR.value or _SAMPLES.value)
  path = folder / 'report.json'
  path.write_text(json.dumps(report, indent=2) + '\n')
  for name, values in report.items():
    print(f'{name}: ' + ', '.join(f'{k} {v:.4g}' for k, v in values.items()))
  if _SAMPLES.value:
    print(f'Gallery: {folder / "index.html"}')
  return 0


def measure_psnr() -> dict[str, float]:
  """Reconstruction PSNR over held-out images, in pixels of 8 bits."""
  if _WORKDIR.value is None:
    raise UserError('--metrics=psnr needs --workdir, a run.')
  ldm = ldm_jax.load(_WORKDIR.value)
  spec = ldm.parts.data
  source = sources.open_source(spec, spec.eval_split)
  found = []
  for batch in data.eval_batches(
    source,
    ldm.parts.prepare,
    spec,
    batch_size=_BATCH.value,
    limit=_NUM.value,
  ):
    again = np.asarray(ldm.decode(ldm.encode(batch['image'])))
    pixels = lambda x: np.round((np.clip(x, -1, 1) + 1) * 127.5)
    values = reconstruction.psnr(pixels(batch['image']), pixels(again), 255)
    found.append(values[batch['example_id'] >= 0])
  found = np.concatenate(found)
  return {'psnr': float(found.mean()), 'images': len(found)}


def measure_scenes() -> dict[str, float]:
  if _SAMPLES.value is None:
    raise UserError('--metrics=scene_accuracy needs --samples, a gallery.')
  images, rows = gallery.read_images(_SAMPLES.value)
  if any('text' not in row for row in rows):
    raise UserError(
      f'{_SAMPLES.value} does not say which captions it was drawn from; '
      'sample with metadata and prompts.'
    )
  captions = [row['text'] for row in rows]
  return scene_accuracy.scene_accuracy(images, captions)


if __name__ == '__main__':
  cli.run(main)
