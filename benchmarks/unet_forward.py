"""One evaluation of the U-Net, beside diffusers' on the same weights.

python -m benchmarks.unet_forward [--unets=ldm4_274m,sd15_860m --batches=1]
"""

import jax
import numpy as np
from absl import flags

from benchmarks import harness, networks, programs
from benchmarks.sides import Case
from ldm_jax import cli

_UNETS = flags.DEFINE_list('unets', ['ldm4_274m', 'sd15_860m'], 'Which.')
_BATCHES = flags.DEFINE_list('batches', ['1'], 'Batch sizes.')


def ldm_jax(spec, folder) -> Case:
  given = networks.inputs(spec)
  args = jax.tree.map(
    jax.numpy.asarray,
    (given['z'], given['t'], networks.conditioning(given)),
  )
  args = (networks.unet_params(spec, folder), *args)
  model = networks.unet(spec)
  apply = lambda params, *args: model.apply({'params': params}, *args)
  program = programs.Program(apply, args)
  run = lambda: jax.block_until_ready(program(*args))
  facts = {**program.facts, **networks.attention(spec)}
  return Case({'': run}, facts, lambda: np.asarray(run()))


def diffusers(spec, folder) -> Case:
  from benchmarks import peers

  model = networks.torch_unet(spec, folder)
  given = networks.torch_inputs(spec)
  keywords = {}
  if 'context' in given:
    keywords['encoder_hidden_states'] = given['context']
  call = lambda model: model(
    given['z'], given['t'], return_dict=False, **keywords
  )[0]
  forms = peers.inference(spec, model, call)
  answer = lambda: forms['eager']().float().permute(0, 2, 3, 1).cpu().numpy()
  return Case(forms, peers.facts(), answer)


def main() -> int:
  rows = []
  for unet in _UNETS.value:
    for batch in map(int, _BATCHES.value):
      spec = {'unet': unet, 'batch': batch, 'dtype': harness.DTYPE.value}
      rows.append(
        harness.compare('unet_forward', spec, ['diffusers', 'ldm_jax'])
      )
  return harness.finish('unet_forward', rows)


if __name__ == '__main__':
  cli.run(main)
