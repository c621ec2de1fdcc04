"""The second start of the same program: what its compiling costs then.

  python -m benchmarks.startup [--unet=ldm4_274m]

Two processes, one after the other, compile the same training step with the same
cache folder, which is empty at first. Scripts keep theirs in
$JAX_COMPILATION_CACHE_DIR or ~/.cache/ldm_jax/programs.
"""

import os
import tempfile

from absl import flags

from benchmarks import harness
from ldm_jax import cli

_UNET = flags.DEFINE_string('unet', 'ldm4_274m', 'Which.')


def facts_of(spec, cache: str) -> dict:
  """The program's, with the seconds of both, from a process of its own."""
  before = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = cache
  try:
    row = harness.compare('training_step', spec, ['ldm_jax'], 0, 0)
  finally:
    os.environ.pop('JAX_COMPILATION_CACHE_DIR')
    if before is not None:
      os.environ['JAX_COMPILATION_CACHE_DIR'] = before
  if row['missing']:
    raise harness.Missing(str(row['missing']))
  return row['facts'][harness.OURS]


def main() -> int:
  spec = {'unet': _UNET.value, 'batch': 1, 'dtype': harness.DTYPE.value}
  with tempfile.TemporaryDirectory(prefix='ldm_jax_cache_') as cache:
    first, second = (facts_of(spec, cache) for _ in range(2))
  share = second['compile_s'] / first['compile_s']
  figures = {
    'first: trace s': first['trace_s'],
    'first: compile s': first['compile_s'],
    'second: trace s': second['trace_s'],
    'second: compile s': second['compile_s'],
    'second compile, share of the first': round(share, 3),
  }
  return harness.finish('startup', [harness.row(spec, figures, second)])


if __name__ == '__main__':
  cli.run(main)
