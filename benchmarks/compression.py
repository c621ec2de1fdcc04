"""Latents against pixels at equal parameters: LDM-1, -4 and -8 (Fig. 7).

  python -m benchmarks.compression [--factors=1,4,8 --batch=1]

The U-Nets of configs/unconditional_celeba_f*.py, 258M to 274M, on the latents
of 256 px images: a training step, and one evaluation as sampling needs it. The
paper's Table 6 has 0.32 to 0.35 images per second in training for LDM-4 and
0.11 for LDM-1, and 0.97 against 0.26 in sampling. Decoding latents, which
LDM-1 has no need of, is added to sampling as its share of 50 steps.
"""

import importlib

import jax
import numpy as np
from absl import flags

from benchmarks import harness, networks, programs, training_step
from benchmarks.sides import Case
from ldm_jax import build, cli
from ldm_jax.types import Conditioning

_FACTORS = flags.DEFINE_list('factors', ['1', '4', '8'], 'Which f.')
_BATCH = flags.DEFINE_integer('batch', 1, 'Images at once.')
_WHAT = flags.DEFINE_list('what', ['sample', 'train'], 'sample, train.')
STEPS = 50  # over which decoding is spread


def config_of(f: int):
  module = importlib.import_module(f'configs.unconditional_celeba_f{f}')
  return build.plain(module.get_config())


def add_network(f: int) -> str:
  """Puts the U-Net of f among those of `networks`; its name there."""
  config = config_of(f)
  name = f'celeba_f{f}'
  unset = lambda x: {k: v for k, v in x.items() if v is not None}
  networks.UNETS[name] = dict(
    unet=unset(config['unet']), side=256 // f, context=(0, 0)
  )
  return name


def ldm_jax(spec, folder) -> Case:
  f = spec['f']
  spec = {**spec, 'unet': add_network(f)}
  params = networks.unet_params(spec, folder)
  count = sum(x.size for x in jax.tree.leaves(params))
  facts = {'parameters': count, **networks.attention(spec)}
  if spec['what'] == 'train':
    training = training_step.Training(spec, params)
    return Case({'train': training}, {**facts, **training.program.facts})
  given = networks.inputs(spec)
  model = networks.unet(spec)
  args = params, *map(jax.numpy.asarray, (given['z'], given['t']))
  unet = programs.Program(
    lambda params, z, t: model.apply({'params': params}, z, t, Conditioning()),
    args,
  )
  forms = {'sample': lambda: jax.block_until_ready(unet(*args))}
  if f > 1:
    stage = build.first_stage(
      config_of(f)['first_stage'], networks.DTYPES[spec['dtype']]
    )
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(stage.init, jax.random.key(0), image)['params']
    frozen = networks.random_params(shapes)
    z = jax.numpy.asarray(given['z'])
    decode = programs.Program(
      lambda params, z: stage.apply({'params': params}, z, method='decode'),
      (frozen, z),
    )
    forms['decode'] = lambda: jax.block_until_ready(decode(frozen, z))
  return Case(forms, {**facts, **unet.facts})


def throughput(row, steps: int = STEPS) -> dict[str, float]:
  """Images per second: of training, and of `steps` evaluations and a decode."""
  median = {
    name.split(', ')[1]: form['median_s'] for name, form in row['forms'].items()
  }
  batch = row['spec']['batch']
  if 'train' in median:
    return {'train images/s': batch / median['train']}
  seconds = steps * median['sample'] + median.get('decode', 0.0)
  return {f'sample images/s, {steps} steps': batch / seconds}


def main() -> int:
  rows = []
  for what in _WHAT.value:
    for f in map(int, _FACTORS.value):
      spec = {
        'f': f, 'what': what, 'batch': _BATCH.value,
        'dtype': harness.DTYPE.value,
      }  # fmt: skip
      row = harness.compare('compression', spec, ['ldm_jax'], warm_up=1)
      row['figures'] = throughput(row)
      rows.append(row)
  return harness.finish('compression', rows)


if __name__ == '__main__':
  cli.run(main)
