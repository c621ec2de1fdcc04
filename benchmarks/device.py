"""The device's own limits: what the other benchmarks' MFU is a share of.

  python -m benchmarks.device

The fastest square matrix product of either library is the peak; the fastest
read of a large array is the bandwidth.
"""

import jax
import numpy as np

from benchmarks import harness, networks, programs
from benchmarks.sides import Case
from ldm_jax import cli

SIDES = (1024, 2048, 3072)  # 4,096 and more on an accelerator
ACCELERATOR_SIDES = (4096, 8192)
_READ = 2**26  # float32 values, 256 MiB


def ldm_jax(spec, folder) -> Case:
  del folder
  dtype = networks.DTYPES[spec['dtype']]
  forms = {}
  for side in spec['sides'] or sides(jax.default_backend() == 'cpu'):
    x = jax.numpy.ones((side, side), dtype)
    product = programs.Program(jax.numpy.matmul, (x, x))
    forms[f'matmul {side}'] = lambda p=product, x=x: jax.block_until_ready(
      p(x, x)
    )
  x = jax.numpy.ones(_READ, jax.numpy.float32)
  read = programs.Program(jax.numpy.sum, (x,))
  forms['read'] = lambda: jax.block_until_ready(read(x))
  return Case(forms, programs.versions())


def torch(spec, folder) -> Case:
  del folder
  import torch

  from benchmarks import peers

  def waited(run):
    def call():
      run()
      peers.wait()

    return call

  forms = {}
  for side in spec['sides'] or sides(peers.DEVICE == 'cpu'):
    x = torch.ones(
      side, side, dtype=getattr(torch, spec['dtype']), device=peers.DEVICE
    )
    forms[f'matmul {side}'] = waited(lambda x=x: x @ x)
  x = torch.ones(_READ, device=peers.DEVICE)
  forms['read'] = waited(x.sum)
  return Case(forms, peers.facts())


def sides(on_cpu: bool):
  return SIDES if on_cpu else ACCELERATOR_SIDES


def limits(forms) -> dict[str, float]:
  """Peak GFLOP/s and GB/s that any side reached in its median."""
  found = {'gflop_per_s': 0.0, 'gbyte_per_s': 0.0}
  for name, form in forms.items():
    kind = name.split(', ')[1]
    if kind == 'read':
      rate = 4 * _READ / form['median_s'] / 1e9
      found['gbyte_per_s'] = max(found['gbyte_per_s'], rate)
    else:
      rate = 2 * int(kind.split()[1]) ** 3 / form['median_s'] / 1e9
      found['gflop_per_s'] = max(found['gflop_per_s'], rate)
  return {k: float(np.round(v, 1)) for k, v in found.items()}


def main() -> int:
  spec = {'dtype': harness.DTYPE.value, 'sides': None}
  row = harness.compare('device', spec, ['torch', 'ldm_jax'])
  row['figures'] = limits(row['forms'])
  return harness.finish('device', [row])


if __name__ == '__main__':
  cli.run(main)
