"""The input pipeline: images per second and core, and what training waits.

  python -m benchmarks.input_pipeline [--batch_size=64 --train_steps=100]

JPEGs of 500 x 375 pixels, as ImageNet's are on average, decoded and cropped at
random to 256; then a training loop on them, whose share of waiting is what
`metrics.jsonl` calls data_wait.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags
from PIL import Image

from benchmarks import harness
from ldm_jax import cli
from ldm_jax.data import pipeline, sources
from ldm_jax.data.spec import DataSpec
from ldm_jax.tasks import TASKS

_IMAGES = flags.DEFINE_integer('images', 512, 'JPEG files.')
_BATCH = flags.DEFINE_integer('batch_size', 8, 'Images of a batch.')
_TRAIN_STEPS = flags.DEFINE_integer('train_steps', 10, '0: no training.')


def write_images(folder: str, count: int) -> None:
  """Smooth random pictures with some grain, at JPEG quality 90."""
  rng = np.random.default_rng(0)
  for i in range(count):
    coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((500, 375), 3), int)
    grain = rng.normal(scale=8, size=picture.shape)
    pixels = np.clip(picture + grain, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(
      os.path.join(folder, f'{i:05d}.jpg'), quality=90
    )


def images_per_second(folder: str, seconds: float) -> dict[str, float]:
  """Of one process's pipeline as training has it, after its first batch."""
  spec = DataSpec(
    source='folder', path=folder, size=256, crop='random', flip=True,
    num_workers=os.cpu_count(),
  )  # fmt: skip
  source = sources.open_source(spec, spec.train_split)
  prepare = TASKS['unconditional'][1]()
  stream = pipeline.train_stream(
    source, prepare, spec, batch_size=_BATCH.value, seed=0, start=0,
    process_index=0, process_count=1,
  )  # fmt: skip
  next(stream)
  begin, done = time.perf_counter(), 0
  while time.perf_counter() - begin < seconds:
    next(stream)
    done += _BATCH.value
  wall = time.perf_counter() - begin
  return {
    'images/s': done / wall,
    'images/s and core': done / wall / os.cpu_count(),
  }


def waiting(folder: str) -> dict[str, float]:
  """data_wait of the last half of a short training run on the images."""
  with tempfile.TemporaryDirectory(prefix='ldm_jax_run_') as workdir:
    steps = _TRAIN_STEPS.value
    flags_ = {
      'num_steps': steps, 'batch_size': _BATCH.value, 'log_every': steps // 2,
      'show_every': 10**6, 'save_every': 10**6, 'data.source': 'folder',
      'data.path': folder, 'data.size': 256, 'data.crop': 'random',
      'data.num_workers': os.cpu_count(), 'data.eval_split': 'train',
      'data.train_split': 'train',
    }  # fmt: skip
    command = [
      sys.executable, 'train.py', f'--workdir={workdir}/run',
      '--config=configs/first_stage/kl_f8.py:tiny',
      *(f'--config.{k}={v}' for k, v in flags_.items()),
    ]  # fmt: skip
    subprocess.run(command, cwd=harness.ROOT, check=True)
    lines = pathlib.Path(workdir, 'run', 'metrics.jsonl').read_text()
  last = [json.loads(line) for line in lines.splitlines()]
  last = [line for line in last if 'data_wait' in line][-1]
  return {
    'waiting, share of training': last['data_wait'],
    'training images/s': last['images_per_second'],
  }


def main() -> int:
  with tempfile.TemporaryDirectory(prefix='ldm_jax_images_') as folder:
    write_images(folder, _IMAGES.value)
    figures = images_per_second(folder, 8.0)
    if _TRAIN_STEPS.value:
      figures |= waiting(folder)
  spec = {'images': _IMAGES.value, 'batch': _BATCH.value}
  return harness.finish('input_pipeline', [harness.row(spec, figures)])


if __name__ == '__main__':
  cli.run(main)
