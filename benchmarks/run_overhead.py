"""What a run's safety costs: finite checks, logging, checksums.

  python -m benchmarks.run_overhead --config=configs/text_scenes.py \
    --config.first_stage_from=random [--rounds=7]

A round times so many steps three times, in turns: the bare step function on
batches that are there, the guarded one, and what train.py's loop does with them
in each step (the guarded step, bad steps, watchdog, signals). An overhead is
the median of the rounds' ratios, of the clock and of the CPU time of all
threads; the second, which a busy machine disturbs less, leaves out what only
waits. A log line (the terminal's, metrics.jsonl and log.txt) is timed by itself
and counted once every `log_every` steps. Checksums run beside training; their
time, of all arrays and of all files, is counted in full, once every
`save_every` steps.
"""

import itertools
import os
import statistics
import sys
import tempfile
import time

import jax
from absl import flags
from ml_collections import config_flags

from benchmarks import harness
from ldm_jax import build, cli
from ldm_jax import run as runs
from ldm_jax.nn import conv
from ldm_jax.training import checkpoint, guard, items, manifest, metrics
from ldm_jax.training.preemption import Preemption
from ldm_jax.training.text_log import TextLog
from ldm_jax.training.watchdog import Watchdog

_CONFIG = config_flags.DEFINE_config_file('config')
_STEPS = flags.DEFINE_integer(
  'steps', 20, 'Steps of a turn.', allow_override=True
)


def bare_step(run):
  """What run.step is, without the guard."""
  return conv.jit(
    run.training.step, donate_argnums=0, out_shardings=(run.shardings, None)
  )


def now() -> tuple[float, float]:
  """The clock, and this process's CPU time, in seconds."""
  return time.perf_counter(), time.process_time()


def since(begin: tuple[float, float]) -> dict[str, float]:
  return dict(zip(('clock', 'cpu'), (b - a for a, b in zip(begin, now()))))


def step_alone(run, step, batches):
  """turn(state, held) -> (state, seconds), of the step function alone."""

  def turn(state, held):
    begin = now()
    for _, batch in batches:
      state, scalars = step(state, held, batch, run.rng)
    jax.block_until_ready((state, scalars))
    return state, since(begin)

  return turn


def whole_loop(run, batches, workdir):
  """The same with all that train.loop does in each step."""
  checkpoints = checkpoint.Checkpoints(workdir)
  progress = metrics.Progress(10**6, 0, run.config.batch_size)
  bad_steps, watchdog, done = guard.BadSteps(), Watchdog(1800), 0

  def turn(state, held):
    nonlocal done
    with Preemption() as preemption, watchdog:
      begin = now()
      for ids, batch in batches:
        preemption.requested(done)
        watchdog.at('waiting for data', done)
        with progress.waiting():
          pass
        watchdog.at('a step', done + 1)
        state, scalars = run.step(state, held, batch, run.rng)
        done += 1
        bad_steps.add(done, scalars, ids)
        checkpoints.check()
      jax.block_until_ready((state, scalars))
      return state, since(begin)

  return turn


def log_seconds(run, scalars, workdir) -> float:
  """Of a line of the log: the median of 20, after the first."""
  progress = metrics.Progress(10**6, 0, run.config.batch_size)
  seconds = []
  with TextLog(workdir), metrics.Writer(workdir) as writer:
    for done in range(1, 22):
      begin = time.perf_counter()
      values = jax.device_get(scalars)
      values['learning_rate'] = float(run.training.learning_rate(done - 1))
      writer.scalars(done, values | progress.log(done, values))
      seconds.append(time.perf_counter() - begin)
  return statistics.median(seconds[1:])


def checksum_seconds(run, state, held, workdir) -> float:
  """Of the sums of a save: of every array, and of every file read back."""
  checkpoints = checkpoint.Checkpoints(workdir)
  found = run.to_items(state, held)
  checkpoints.save(1, found, {})
  checkpoints.close()
  leaves = items.named_leaves(found).values()
  shards = [(leaf, items.host_shards(leaf)) for leaf in leaves]
  begin = time.perf_counter()
  for leaf, parts in shards:
    items.describe(leaf, parts)
  folder = checkpoint.epath.Path(workdir) / 'checkpoints' / '1'
  manifest.file_sums(folder, manifest.list_files(folder))
  return time.perf_counter() - begin


def main() -> int:
  run = runs.open_run(build.parts(build.plain(_CONFIG.value)))
  state, held, meta = runs.begin(run)
  runs.use_cache(run, held, lambda done: None)
  stream = run.stream(meta['next_example'])
  batches = [
    run.to_device(batch) for batch in itertools.islice(stream, _STEPS.value)
  ]
  stream.close()
  with tempfile.TemporaryDirectory() as folder:
    turns = {
      'bare': step_alone(run, bare_step(run), batches),
      'guarded': step_alone(run, run.step, batches),
      'loop': whole_loop(run, batches, folder),
    }
    for turn in turns.values():  # Compiles.
      state, _ = turn(state, held)
    seconds = {kind: {name: [] for name in turns} for kind in ('clock', 'cpu')}
    for i in range(harness.ROUNDS.value):
      for name in list(turns)[:: 1 if i % 2 == 0 else -1]:
        state, took = turns[name](state, held)
        for kind, value in took.items():
          seconds[kind][name].append(value / _STEPS.value)
    _, scalars = jax.eval_shape(run.step, state, held, batches[0][1], run.rng)
    scalars = {k: jax.numpy.ones(v.shape, v.dtype) for k, v in scalars.items()}
    line = log_seconds(run, scalars, folder)
    sums = checksum_seconds(run, state, held, folder)
  over = {
    kind: {
      name: [b / a - 1 for a, b in zip(taken['bare'], taken[name])]
      for name in ('guarded', 'loop')
    }
    for kind, taken in seconds.items()
  }
  step = statistics.median(seconds['clock']['bare'])
  logging = line / run.config.log_every / step
  checksums = sums / run.config.save_every / step
  report = {
    'config': flags.FLAGS['config'].value is not None and sys.argv[1:],
    'cores': len(os.sched_getaffinity(0)),
    'device': jax.devices()[0].device_kind,
    'step_s': step,
    'seconds': seconds,
    'overheads': {
      kind: {name: harness.quartiles(x) for name, x in found.items()}
      for kind, found in over.items()
    },
    'log_s': line,
    'log_every': run.config.log_every,
    'checksum_s': sums,
    'save_every': run.config.save_every,
    'checksum_overhead': checksums,
    'overhead': {
      kind: statistics.median(found['loop']) + logging + checksums
      for kind, found in over.items()
    },
  }
  print(f'A step: {step:.3f} s.')
  for kind, found in report['overheads'].items():
    for name, (low, median, high) in found.items():
      print(f'{name}, {kind}: {median:+.2%} [{low:+.2%}, {high:+.2%}]')
  print(
    f'A log line: {line:.4f} s every {run.config.log_every} steps, '
    f'{logging:+.2%}'
  )
  print(
    f'Checksums: {sums:.3f} s every {run.config.save_every} steps, '
    f'{checksums:+.2%}'
  )
  for kind, value in report['overhead'].items():
    print(f'Together, {kind}: {value:+.2%}')
  print(f'written: {harness.write("run_overhead", report)}')
  return 0


if __name__ == '__main__':
  cli.run(main)
