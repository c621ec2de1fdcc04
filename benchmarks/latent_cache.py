"""How much faster training is from a latent cache, and that it is the same.

  python -m benchmarks.latent_cache --config=configs/text_scenes.py \
    --config.first_stage_from=random [--rounds=7]

Two runs from the same seed, side by side in one process: one reads images and
encodes them in its step, the other reads a cache that was filled before. A
round times so many steps of each in turns, with reading the data. The speed-up
is the median of the rounds' ratios; the losses of all steps are compared.
"""

import os
import statistics
import tempfile
import time

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from benchmarks import harness
from ldm_jax import build, cli
from ldm_jax import run as runs

_CONFIG = config_flags.DEFINE_config_file('config')
_STEPS = flags.DEFINE_integer(
  'steps', 10, 'Steps of a turn.', allow_override=True
)


class Side:
  """A run under way."""

  def __init__(self, config: dict, folder: str | None):
    parts = build.parts(config | {'latent_cache': folder})
    self.run = runs.open_run(parts)
    self.state, self.held, meta = runs.begin(self.run)
    begin = time.perf_counter()
    runs.use_cache(self.run, self.held, lambda done: None)
    self.filling = time.perf_counter() - begin
    self.stream = self.run.stream(meta['next_example'])
    self.losses = []

  def turn(self, steps: int) -> float:
    """Seconds of a step."""
    begin, losses = time.perf_counter(), []
    for _ in range(steps):
      _, batch = self.run.to_device(next(self.stream))
      self.state, scalars = self.run.step(
        self.state, self.held, batch, self.run.rng
      )
      losses.append(scalars['loss'])
    self.losses += np.asarray(jax.device_get(losses)).tolist()
    return (time.perf_counter() - begin) / steps


def main() -> int:
  config = build.plain(_CONFIG.value)
  steps = _STEPS.value
  with tempfile.TemporaryDirectory() as folder:
    images, cached = sides = Side(config, None), Side(config, folder)
    for side in sides:  # Compiles.
      side.turn(2)
    seconds = [], []
    for i in range(harness.ROUNDS.value):
      for side in (0, 1) if i % 2 == 0 else (1, 0):
        seconds[side].append(sides[side].turn(steps))
    size = sum(e.stat().st_size for e in os.scandir(folder))
    for side in sides:
      side.stream.close()
  ratios = [a / b for a, b in zip(*seconds)]
  difference = np.abs(np.divide(cached.losses, images.losses) - 1)
  report = {
    'cores': len(os.sched_getaffinity(0)),
    'device': jax.devices()[0].device_kind,
    'examples': len(images.run.source),
    'fill_s': cached.filling,
    'cache_bytes': size,
    'seconds': seconds,
    'speed_up': harness.quartiles(ratios),
    'steps': len(images.losses),
    'loss_difference': {
      'first': float(difference[0]), 'largest': float(difference.max())
    },
  }  # fmt: skip
  low, median, high = report['speed_up']
  print(
    f'{report["examples"]:,} examples encoded in {cached.filling:.1f} s, '
    f'{size / 2**20:.1f} MiB.'
  )
  for name, taken in zip(('images', 'latents'), seconds):
    print(f'A step from {name}: {statistics.median(taken):.4f} s')
  print(f'Faster: {median:.3f} [{low:.3f}, {high:.3f}]')
  print(
    f'Losses of {len(difference)} steps differ by at most '
    f'{difference.max():.1e}, the first by {difference[0]:.1e}'
  )
  print(f'written: {harness.write("latent_cache", report)}')
  return 0


if __name__ == '__main__':
  cli.run(main)
