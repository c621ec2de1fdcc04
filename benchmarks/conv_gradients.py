"""How fast a convolution and both its gradients are on this device.

  python -m benchmarks.conv_gradients [--rounds=15]
  python -m benchmarks.conv_gradients --looped

Three variants, interleaved, on one shape at a time: lax's convolution under
JAX's default options, the same under `cpu_compiler_options`, and `conv2d`
under them. Times are medians, and so is how many times faster one is, of the
rounds' own ratios, so that a slow spell of the machine hits both sides.
--looped runs the second and the third within `jax.lax.scan`, as guided sampling
and microbatches do, on the shapes of several images. Busy time is that of all
threads together: where it equals the time on the wall, one thread did the work.
"""

import statistics
import time

import jax
import numpy as np
from absl import flags

from benchmarks import harness, programs
from ldm_jax import cli
from ldm_jax.nn.conv import conv2d, cpu_compiler_options

LOOPED = flags.DEFINE_bool('looped', False, 'Within a scan of three.')

# B, H (= W), ci, co; 3x3, stride 1, padding 1.
SHAPES = (
  (64, 32, 3, 32),
  (64, 32, 32, 32),
  (64, 16, 32, 64),
  (64, 16, 64, 64),
  (64, 8, 4, 64),
  (64, 8, 64, 64),
  (64, 8, 128, 128),
  (64, 4, 128, 128),
  (64, 4, 256, 256),
  (4, 32, 192, 192),
  (4, 16, 128, 128),
  (4, 8, 192, 192),
  (4, 4, 256, 256),
  (1, 256, 128, 128),
  (1, 128, 128, 128),
  (1, 128, 256, 256),
  (1, 64, 512, 512),
  (1, 64, 672, 224),
  (1, 64, 224, 224),
  (1, 64, 448, 224),
  (1, 32, 448, 448),
  (1, 16, 672, 672),
  (1, 8, 896, 896),
  (1, 8, 1792, 896),
)


def lax_conv(x, kernel):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    ((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def forward_and_backward(conv):
  def run(x, kernel, dy):
    y, vjp = jax.vjp(conv, x, kernel)
    return y, vjp(dy)

  return run


def in_a_loop(conv):
  run = forward_and_backward(conv)

  def loop(x, kernel, dy):
    def step(x, _):
      y, (dx, dkernel) = run(x, kernel, dy)
      return x + dx, (jax.numpy.mean(y), dkernel)

    return jax.lax.scan(step, x, length=3)

  return loop


def measure(shape, rounds):
  """Milliseconds on the wall, and busy, of each round: {name: [rounds 2]}."""
  batch, size, ci, co = shape
  rng = np.random.default_rng(0)
  draw = lambda *s: jax.numpy.asarray(rng.normal(size=s), 'float32')
  args = (
    draw(batch, size, size, ci),
    draw(3, 3, ci, co),
    draw(batch, size, size, co),
  )
  options = cpu_compiler_options()
  variants = (
    ('default', lax_conv, {}),
    ('options', lax_conv, options),
    ('conv2d', conv2d, options),
  )
  form = in_a_loop if LOOPED.value else forward_and_backward
  compiled = {
    name: jax.jit(form(conv)).lower(*args).compile(options)
    for name, conv, options in variants[LOOPED.value :]
  }
  times = {name: [] for name in compiled}
  for _ in range(rounds + 2):
    for name, run in compiled.items():
      start = time.perf_counter(), time.process_time()
      jax.block_until_ready(run(*args))
      end = time.perf_counter(), time.process_time()
      times[name].append(
        [1e3 * (b - a) for a, b in zip(start, end, strict=True)]
      )
  return {name: t[2:] for name, t in times.items()}  # Two rounds warm up.


def figures(times) -> dict[str, float]:
  """Medians in milliseconds, and how many times faster `conv2d` is, paired."""
  first, *others = times
  found = {}
  for name, rounds in times.items():
    wall, busy = (statistics.median(kind) for kind in zip(*rounds))
    found |= {f'{name} ms': wall, f'{name} busy ms': busy}
  for name in others:
    pairs = zip(times[first], times[name], strict=True)
    found[f'{first} over {name}'] = statistics.median(
      a[0] / b[0] for a, b in pairs
    )
  return found


def main() -> int:
  rows = []
  for shape in SHAPES:
    if LOOPED.value and shape[0] == 1:
      continue
    spec = {'shape': shape, 'looped': LOOPED.value, 'dtype': 'float32'}
    times = measure(shape, harness.ROUNDS.value)
    rows.append(harness.row(spec, figures(times), programs.versions()))
  return harness.finish('conv_gradients', rows)


if __name__ == '__main__':
  cli.run(main)
