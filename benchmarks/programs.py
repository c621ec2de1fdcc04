"""A compiled JAX program, and what its compiler says of it."""

import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

import jax

from benchmarks import flops
from ldm_jax.nn import conv


class Program:
  """`function` compiled for `args`, as the package compiles its own.

  Attributes:
    facts: compile time, FLOPs and bytes of one call, memory.
  """

  def __init__(self, function: Callable, args, **settings):
    settings.setdefault('compiler_options', conv.cpu_compiler_options())
    start = time.perf_counter()
    traced = jax.jit(function, **settings).trace(*args)
    lowered = traced.lower()
    self.lower_s = time.perf_counter() - start
    self.compiled = lowered.compile()
    self.facts = {
      'trace_s': round(self.lower_s, 2),
      'compile_s': round(time.perf_counter() - start - self.lower_s, 2),
      **cost(traced, lowered, self.compiled),
      **versions(),
    }

  def __call__(self, *args):
    return self.compiled(*args)


def cost(traced, lowered, compiled) -> dict[str, Any]:
  """FLOPs of what was asked for, bytes of what was compiled, and memory.

  FLOPs are those of the program before it is optimised: what the compiler adds
  (recomputing, padding) is its own affair, and is not to raise the MFU. Of
  bytes, those of a loop's body are counted once.
  """
  before, after = lowered.cost_analysis(), compiled.cost_analysis()
  memory = compiled.memory_analysis()
  return {
    'gflop': (
      (before or {}).get('flops', 0.0) + flops.left_out(traced.jaxpr.jaxpr)
    )
    / 1e9,
    'gbyte': (after or {}).get('bytes accessed', 0.0) / 1e9,
    'temporary_mib': getattr(memory, 'temp_size_in_bytes', 0) / 2**20,
    'argument_mib': getattr(memory, 'argument_size_in_bytes', 0) / 2**20,
  }


def versions() -> dict[str, Any]:
  device = jax.devices()[0]
  return {
    'device': f'{device.device_kind} x {jax.device_count()}',
    'versions': {
      name: importlib.metadata.version(name)
      for name in ('jax', 'jaxlib', 'flax', 'optax')
    },
    'compiler_options': conv.cpu_compiler_options(),
  }
