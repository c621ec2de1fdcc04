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

from benchmarks import harness, networks, unet_forward
from benchmarks.sides import Case
from ldm_jax import cli

_UNET = flags.DEFINE_string('unet', 'ldm4_274m', 'Which.')

ldm_jax = unet_forward.ldm_jax


def exact(spec, folder) -> Case:
  return _peer(spec, folder, double=True)


def diffusers(spec, folder) -> Case:
  return _peer(spec, folder, double=False)


def _peer(spec, folder, double) -> Case:
  import torch

  from benchmarks import peers

  model = networks.torch_unet(spec, folder)  # Both draw the same weights.
  given = networks.torch_inputs(spec)
  if double:
    model = model.double()
    given = {k: x.double() if k != 't' else x for k, x in given.items()}

  def answer():
    keywords = {}
    if 'context' in given:
      keywords['encoder_hidden_states'] = given['context']
    with torch.inference_mode():
      y = model(given['z'], given['t'], return_dict=False, **keywords)[0]
    return y.permute(0, 2, 3, 1).cpu().numpy()

  return Case({}, peers.facts(), answer)


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
  truth = found.pop('exact')
  figures = {}
  for side, y in found.items():
    off = np.abs(y - truth) / truth.std()
    figures[f'{side}, rms'] = float(np.sqrt(np.mean(np.square(off))))
    figures[f'{side}, largest'] = float(off.max())
  return figures


def main() -> int:
  spec = {'unet': _UNET.value, 'batch': 1, 'dtype': 'float32'}
  row = harness.row(spec, errors(answers(spec)))
  return harness.finish('rounding', [row])


if __name__ == '__main__':
  cli.run(main)
