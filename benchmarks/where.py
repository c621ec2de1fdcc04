"""Where a program's time goes, by kind of operation of the compiled HLO.

  taskset -c 0 python -m benchmarks.where [--unet=ldm4_274m --what=train]

One call under JAX's profiler, after three to warm up. On one thread the times
add up; on more, operations overlap and a convolution's hide in the pool's.
"""

import collections
import pathlib
import re
import tempfile

import jax
from absl import flags

from benchmarks import harness, networks, programs, training_step
from ldm_jax import cli

_UNET = flags.DEFINE_string('unet', 'ldm4_274m', 'Which.')
_BATCH = flags.DEFINE_integer('batch', 1, 'Batch size.', 1)
_WHAT = flags.DEFINE_enum('what', 'train', ['train', 'forward'], 'What of it.')


def forward(spec, params):
  given = networks.inputs(spec)
  args = params, *map(jax.numpy.asarray, (given['z'], given['t']))
  args = *args, jax.tree.map(jax.numpy.asarray, networks.conditioning(given))
  model = networks.unet(spec)
  program = programs.Program(
    lambda params, *args: model.apply({'params': params}, *args), args
  )
  return lambda: jax.block_until_ready(program(*args))


def times(folder: str) -> dict[str, float]:
  """Milliseconds of each operation in a trace, its number left out."""
  (path,) = pathlib.Path(folder).rglob('*.xplane.pb')
  found = collections.Counter()
  for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
    for line in plane.lines:
      for event in line.events:
        if any(name == 'hlo_op' for name, _ in event.stats):
          kind = re.sub(r'[\d.]+$', '', event.name)
          found[kind] += event.duration_ns / 1e6
  return dict(found.most_common(20))


def main() -> int:
  spec = {'unet': _UNET.value, 'batch': _BATCH.value,
          'dtype': harness.DTYPE.value}  # fmt: skip
  params = networks.unet_params(spec, '')
  train = _WHAT.value == 'train'
  run = (training_step.Training if train else forward)(spec, params)
  for _ in range(3):
    run()
  with tempfile.TemporaryDirectory(prefix='ldm_jax_trace_') as folder:
    with jax.profiler.trace(folder):
      run()
    for kind, milliseconds in times(folder).items():
      print(f'{milliseconds:9.1f} ms  {kind}')
  return 0


if __name__ == '__main__':
  cli.run(main)
