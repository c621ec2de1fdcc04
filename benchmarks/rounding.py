"""How far float32 takes one evaluation of the U-Net from what it is exactly.

  python -m benchmarks.rounding [--unet=ldm4_274m]

The peer's network in double precision is the measure; its own single precision
and ours, on the same weights and inputs, stand beside it. Errors are in
standard deviations of the exact result.
"""

import os
import tempfile

import numpy as np
from absl import flags

from benchmarks import harness, unet_forward
from benchmarks.sides import Case
from ldm_jax import cli

_UNET = flags.DEFINE_string('unet', 'ldm4_274m', 'Which.')

ldm_jax, diffusers = unet_forward.ldm_jax, unet_forward.diffusers


def exact(spec, folder) -> Case:
  return diffusers({**spec, 'dtype': 'float64'}, folder)


def answers(spec) -> dict[str, np.ndarray]:
  """Each side's result, from processes one after another."""
  found = {}
  with tempfile.TemporaryDirectory(prefix='ldm_jax_bench_') as folder:
    for side in ('exact', 'diffusers', harness.OURS):
      process = harness.Process.start('rounding', side, spec, folder)
      path = os.path.join(folder, f'{side}.npy')
      process.ask(answer=path)
      process.stop()
      found[side] = np.load(path).astype(np.float64)
  return found


def errors(found) -> dict[str, float]:
  """{'SIDE, rms' and 'SIDE, largest'}, in standard deviations."""
  exact, figures = found['exact'], {}
  for side in ('diffusers', harness.OURS):
    off = np.abs(found[side] - exact) / exact.std()
    figures[f'{side}, rms'] = float(np.sqrt(np.mean(np.square(off))))
    figures[f'{side}, largest'] = float(off.max())
  return figures


def main() -> int:
  spec = {
    'unet': _UNET.value, 'batch': 1, 'dtype': 'float32', 'compiled': False,
  }  # fmt: skip
  row = harness.row(spec, errors(answers(spec)))
  return harness.finish('rounding', [row])


if __name__ == '__main__':
  cli.run(main)
