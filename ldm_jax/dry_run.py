"""What a training would be and need, found without writing anything."""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ldm_jax import build
from ldm_jax import run as runs
from ldm_jax.nn import target
from ldm_jax.training import metrics, parallel
from ldm_jax.types import UserError

_GIB = 2**30
_TIMED_STEPS = 3
_UNOPTIMISED = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


@dataclasses.dataclass(frozen=True)
class Elsewhere:
  """Devices that are not here: how many, and the memory of each in GiB.

  Raises UserError where there are none, or they have no memory.
  """

  devices: int
  memory: float

  def __post_init__(self):
    if self.devices < 1 or self.memory <= 0:
      raise UserError(
        f'--dry_run_devices={self.devices} and --dry_run_memory={self.memory}: '
        'say both, how many devices and the GiB of each, such as 8 and 80.'
      )

  def pretend(self) -> None:
    """Makes JAX see as many, on this CPU; before it looks for devices."""
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', self.devices)


def report(
  config: Mapping[str, Any], elsewhere: Elsewhere | None = None
) -> int:
  """Prints config, parameters, memory, checkpoint size and time; returns 0.

  Memory is the compiler's own account of the step, made from shapes alone, so
  a model that does not fit is told of and not tried. Of devices elsewhere
  nothing is tried, and neither data nor first stage need be here. Their account
  is an estimate: the CPU compiler's, of the program that they would get. It
  holds bfloat16 activations as float32, and knows no other device's layouts.
  """
  # A latent cache would have to be filled first: told as without.
  parts = build.parts({**config, 'latent_cache': ''})
  if not elsewhere:
    runs.check_begin(build.parts(config))
  print(json.dumps(config, indent=2))
  run = runs.without_data(parts) if elsewhere else runs.open_run(parts)
  for name, tree in part_shapes(run).items():
    print(f'parameters of {name}: {count(tree):,}')
  print(parallel.describe_shardings(run.abstract_state, run.shardings))

  with target.anywhere() if elsewhere else contextlib.nullcontext():
    lowered = lower_step(run)
  # Machine code for somebody else's memory need not be fast.
  compiled = lowered.compile(_UNOPTIMISED if elsewhere else None)
  memory = compiled.memory_analysis()
  kept = memory.argument_size_in_bytes
  working = memory.temp_size_in_bytes
  print(
    f'memory of a device: {(kept + working) / _GIB:.2f} GiB '
    f'({kept / _GIB:.2f} kept, {working / _GIB:.2f} working)'
  )
  saved = run.to_items(
    run.abstract_state, {'first_stage': run.abstract_first_stage}
  )
  print(f'checkpoint: {bytes_of(saved) / _GIB:.2f} GiB each')
  free = elsewhere.memory * _GIB if elsewhere else free_bytes()
  if free is not None and kept + working > free:
    print(
      f'time: not tried; a device has {free / _GIB:.2f} GiB, so this does not '
      'fit. Raise mesh.fsdp or grad_accum, or set unet.remat=True.'
    )
    return 0
  if elsewhere:
    print(f'time: not tried; a device has {free / _GIB:.2f} GiB: it fits.')
    return 0
  seconds = time_steps(run, compiled)
  total = seconds * parts.config.num_steps
  rate = parts.config.batch_size / seconds
  print(
    f'time: {seconds:.3f} s a step, {rate:.1f} images/s, '
    f'{metrics.duration(total)} for {parts.config.num_steps:,} steps'
  )
  return 0


def part_shapes(run: runs.Run) -> dict[str, Any]:
  """Abstract parameters, by part."""
  if not run.parts.on_latents:
    shapes = {'the first stage': run.abstract_state.params}
    if run.abstract_state.disc_params:
      shapes['the discriminator'] = run.abstract_state.disc_params
    return shapes
  params = run.abstract_state.params
  if run.parts.classifier is not None:
    return {
      'the first stage (frozen)': run.abstract_first_stage,
      'the classifier': params,
    }
  return {
    'the first stage (frozen)': run.abstract_first_stage,
    'the U-Net': params['unet'],
    'the conditioner': params.get('conditioner', {}),
  }


def lower_step(run: runs.Run):
  """The training step traced for shapes; no array is made."""
  batch = run.parts.blank_batch(1)
  size = run.parts.config.batch_size
  sharding = parallel.batch_sharding(run.mesh)
  batch = {
    k: jax.ShapeDtypeStruct((size, *v.shape[1:]), v.dtype, sharding=sharding)
    for k, v in batch.items()
  }
  return run.step.lower(
    run.abstract_state, _abstract_frozen(run), batch, run.rng
  )


def _abstract_frozen(run: runs.Run):
  if not run.parts.on_latents:
    return runs.first_stage_frozen(run)
  scale = jax.ShapeDtypeStruct(
    (), np.float32, sharding=parallel.replicated(run.mesh)
  )
  return {'first_stage': run.abstract_first_stage, 'scale_factor': scale}


def time_steps(run: runs.Run, compiled) -> float:
  """Seconds of a step, the median of three after one that warms up."""
  state, held, _ = runs.begin(run)
  stream = run.stream(0)
  seconds = []
  for _ in range(1 + _TIMED_STEPS):
    _, batch = run.to_device(next(stream))
    begin = time.monotonic()
    state, scalars = compiled(state, held, batch, run.rng)
    jax.block_until_ready(scalars)
    seconds.append(time.monotonic() - begin)
  stream.close()
  return float(np.median(seconds[1:]))


def free_bytes() -> int | None:
  """What a device has; None where it does not say."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'bytes_limit' in stats:
    return stats['bytes_limit']
  return metrics.host_memory_bytes() if jax.default_backend() == 'cpu' else None


def count(tree: Any) -> int:
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def bytes_of(tree: Any) -> int:
  return sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )
