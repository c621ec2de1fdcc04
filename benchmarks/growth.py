"""How the cost grows: batch, resolution, context, steps, devices.

  python -m benchmarks.growth [--axes=batch,side,length,steps,devices]

One evaluation of a small U-Net (a cross-attending one for the context) with one
number changed at a time; a latent in so many DDIM steps; and for devices one
training step on 1, 2, 4 and 8 virtual ones, with as many images on each: on a
machine of fixed size the images per second should stay, and what is lost is
overhead.
"""

import os

import jax
from absl import flags

from benchmarks import harness, networks, programs
from benchmarks.sides import Case
from ldm_jax import cli
from ldm_jax.diffusion import ddim, sampling
from ldm_jax.diffusion import schedule as schedules

_AXES = flags.DEFINE_list(
  'axes', ['batch', 'side', 'length', 'steps', 'devices'], 'What to change.'
)

SMALL = {'unet': 'ldm4_small', 'batch': 1}
WALKS = {
  'batch': ('unet_forward', [{**SMALL, 'batch': b} for b in (1, 2, 4, 8)]),
  'side': ('unet_forward', [{**SMALL, 'side': s} for s in (16, 32, 64, 128)]),
  'length': (
    'unet_forward',
    [{'unet': 'text_small', 'batch': 1, 'length': n} for n in (19, 77, 308)],
  ),
  'steps': ('growth', [{**SMALL, 'steps': n} for n in (1, 5, 25, 50)]),
  'devices': (
    'training_step',
    [{**SMALL, 'batch': n, 'devices': n} for n in (1, 2, 4, 8)],
  ),
}


def ldm_jax(spec, folder) -> Case:
  """A latent from noise, in spec['steps'] DDIM steps."""
  model, params = networks.unet(spec), networks.unet_params(spec, folder)
  table = ddim.ddim(sampling.levels(schedules.make(), spec['steps']))
  conditioning = networks.conditioning({})

  def run(params, noise, keys):
    denoise = lambda z, t: model.apply({'params': params}, z, t, conditioning)
    return sampling.sample(denoise, table, noise, keys)

  keys = sampling.image_keys(0, 0, spec['batch'])
  args = params, jax.numpy.asarray(networks.inputs(spec)['noise']), keys
  program = programs.Program(run, args)
  facts = {**program.facts, **networks.attention(spec)}
  return Case({'': lambda: jax.block_until_ready(program(*args))}, facts)


def measured(benchmark: str, spec) -> dict:
  spec = {**spec, 'dtype': harness.DTYPE.value}
  count = spec.get('devices')
  before = os.environ.get('XLA_FLAGS', '')
  if count:
    os.environ['XLA_FLAGS'] = (
      f'{before} --xla_force_host_platform_device_count={count}'
    )
  try:
    row = harness.compare(benchmark, spec, ['ldm_jax'])
  finally:
    os.environ['XLA_FLAGS'] = before
  row['figures'] = {
    'images/s': spec['batch'] / row['forms']['ldm_jax']['median_s']
  }
  return row


def main() -> int:
  rows = [
    measured(benchmark, spec)
    for axis in _AXES.value
    for benchmark, specs in [WALKS[axis]]
    for spec in specs
  ]
  return harness.finish('growth', rows)


if __name__ == '__main__':
  cli.run(main)
