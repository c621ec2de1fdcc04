"""Trains a first stage, a latent diffusion model, or a classifier of latents.

  python train.py --config=configs/first_stage/scenes_kl.py --workdir=runs/kl
  python train.py --config=configs/text_scenes.py --workdir=runs/text \
    --config.first_stage_from=runs/kl

Started again with the same --workdir, it goes on where it stopped. Told to
stop (SIGTERM or Ctrl-C), it saves at the next step and exits with 75. Other
exit codes: 0 done, 1 failed, 2 a mistake, 70 stood still; see
docs/launch.md.
"""

import functools
import sys

import jax
from absl import flags
from ml_collections import config_flags

from ldm_jax import build, cli, dry_run, same_model
from ldm_jax import run as runs
from ldm_jax.measuring.quick_metrics import QuickMetrics
from ldm_jax.panel import Panel
from ldm_jax.training import (
  checkpoint,
  frozen,
  guard,
  launcher,
  metrics,
  parallel,
  text_log,
)
from ldm_jax.training.preemption import EXIT_CODE, Preemption
from ldm_jax.training.profile import Profiler
from ldm_jax.training.watchdog import Watchdog
from ldm_jax.types import UserError

_CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, "The run's folder.", allow_override=True
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print what training would be and need; write nothing.'
)
_DRY_RUN_DEVICES = cli.integer(
  'dry_run_devices', 0, '--dry_run for so many devices that are not here.'
)
_DRY_RUN_MEMORY = cli.number(
  'dry_run_memory', 0.0, 'GiB of each of --dry_run_devices.'
)


def train(config: dict, workdir: str) -> int:
  """Runs to config.num_steps; returns the process's exit code."""
  parts = build.parts(config)
  same_model.check_workdir(workdir, config)
  limit = 60 * parts.guard.watchdog_minutes
  with (
    text_log.TextLog(workdir),
    Watchdog(limit) as watchdog,
    Preemption() as preemption,
  ):
    watchdog.at('opening the run', 0)
    run = runs.open_run(parts)
    if run.mesh.shape['fsdp'] > 1:
      text_log.note(
        parallel.describe_shardings(run.abstract_state, run.shardings)
      )
    keep = run.config.keep_checkpoints, run.config.keep_every
    with checkpoint.Checkpoints(workdir, *keep) as checkpoints:
      start = runs.resume(run, checkpoints) or runs.begin(run)
      checkpoint.write_config(workdir, config)
      encoding = lambda done: watchdog.at('encoding the data', done)
      if runs.use_cache(run, start[1], encoding, preemption.requested):
        done = loop(run, start, checkpoints, workdir, watchdog, preemption)
      else:
        done = int(start[0].step)
      watchdog.at('closing', done)
  if done < run.config.num_steps:
    at = f'saved step {done}' if done else 'before the first step'
    text_log.say(f'Told to stop: {at}. The same command goes on.')
    return EXIT_CODE
  return 0


def loop(run, start, checkpoints, workdir, watchdog, preemption) -> int:
  """The loop; returns the last step that it took."""
  top, (state, held, meta) = run.config, start
  first = done = int(state.step)
  if first:
    text_log.say(f'Going on from step {first}.')
  stream = run.stream(meta['next_example'], workdir)
  panel = Panel(run)
  quick = QuickMetrics(run, top.eval_num)
  progress = metrics.Progress(top.num_steps, first, top.batch_size)
  profiler = Profiler(workdir, run.parts.profile)
  bad_steps = guard.BadSteps(run.parts.guard.max_bad_steps)
  scalars = None
  due = lambda every: every and (done % every == 0 or done == top.num_steps)

  def save():
    watchdog.at('saving', done)
    meta.update(runs.about(run), next_example=stream.next_example)
    checkpoints.save(done, run.to_items(state, held), meta)

  with metrics.Writer(workdir, first) as writer:
    while done < top.num_steps and not preemption.requested(done):
      watchdog.at('waiting for data', done)
      if not stream.wait(0) and scalars is not None:
        # Only time in which the devices have nothing to do is waiting.
        jax.block_until_ready(scalars)
      with progress.waiting():
        while not stream.wait(1.0) and not preemption.signalled:
          pass
        if preemption.signalled and not stream.wait(0):
          continue
        ids, batch = run.to_device(next(stream))
      watchdog.at('a step', done + 1)
      state, scalars = run.step(state, held, batch, run.rng)
      done += 1
      bad_steps.add(done, scalars, ids)
      if done == first + 1:
        jax.block_until_ready(scalars)
        progress.compiled(done)
        watchdog.compiled()
      profiler.after_step(scalars)

      if due(top.log_every):
        values = jax.device_get(scalars)
        values['learning_rate'] = float(run.training.learning_rate(done - 1))
        if run.parts.on_latents:
          frozen.warn_if_off_scale(done, float(values['latent_std']))
        writer.scalars(done, values | progress.log(done, values))
      with progress.paused():
        if due(top.save_every):
          save()  # First, and in the background: what follows may take long.
        if due(top.show_every) and not preemption.requested(done):
          watchdog.at('drawing', done)
          name, picture, extra = panel.draw(state, held)
          writer.image(done, name, picture)
          if extra:
            writer.scalars(done, extra)
        if due(top.eval_every) and not preemption.requested(done):
          beat = functools.partial(watchdog.at, 'evaluating', done)
          beat()
          writer.scalars(done, quick.measure(state, held, beat))
        checkpoints.check()
    bad_steps.flush()
    if first < done < top.num_steps:
      save()
  profiler.close()
  progress.close()
  stream.close()
  return done


def main() -> int:
  if _CONFIG.value is None:
    raise UserError('--config is missing, such as configs/text_scenes.py.')
  config = build.plain(_CONFIG.value)
  if _DRY_RUN_DEVICES.value or _DRY_RUN_MEMORY.value:
    elsewhere = dry_run.Elsewhere(_DRY_RUN_DEVICES.value, _DRY_RUN_MEMORY.value)
    if not _DRY_RUN.value:
      raise UserError('--dry_run_devices and --dry_run_memory: say --dry_run.')
    elsewhere.pretend()
    return dry_run.report(config, elsewhere)
  launcher.initialize()
  if not _DRY_RUN.value and _WORKDIR.value is None:
    raise UserError("--workdir is missing: the run's folder.")
  try:
    if _DRY_RUN.value:
      return dry_run.report(config)
    return train(config, _WORKDIR.value)
  except (guard.TooManyBadSteps, checkpoint.SaveError, runs.DataError) as error:
    print(f'Error: {error}', file=sys.stderr)
    return 1


if __name__ == '__main__':
  cli.run(main)
