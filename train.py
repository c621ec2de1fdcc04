"""Trains a first stage or a latent diffusion model.

  python train.py --config=configs/first_stage/scenes_kl.py --workdir=runs/kl
  python train.py --config=configs/text_scenes.py --workdir=runs/text \
      --config.first_stage_from=runs/kl

Started again with the same --workdir, it goes on where it stopped. Told to
stop (SIGTERM or Ctrl-C), it saves at the next step and exits with 75.
"""

import dataclasses
import functools
import itertools
import json

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

import ldm_jax
from ldm_jax import build, cli
from ldm_jax.data import pipeline as data
from ldm_jax.data import sources
from ldm_jax.nn.conv import cpu_compiler_options
from ldm_jax.pipeline import LatentDiffusionPipeline, to_uint8
from ldm_jax.training import (
    checkpoint,
    first_stage_step,
    frozen,
    metrics,
    parallel,
)
from ldm_jax.training.preemption import EXIT_CODE, Preemption
from ldm_jax.types import UserError

_CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'The run\'s folder.')
_DRY_RUN = flags.DEFINE_bool(
    'dry_run', False, 'Print what training would be and need; write nothing.'
)


@dataclasses.dataclass
class Run:
  """Everything the loop touches."""

  parts: build.Parts
  training: build.Training
  mesh: jax.sharding.Mesh
  source: object
  rng: jax.Array
  shardings: object  # of the state

  @functools.cached_property
  def step(self):
    return jax.jit(
        self.training.step,
        donate_argnums=0,
        out_shardings=(self.shardings, None),
        compiler_options=cpu_compiler_options(),
    )

  def stream(self, start: int, quarantine_dir: str = '') -> data.Stream:
    config = self.parts.config
    return data.train_stream(
        self.source,
        self.parts.prepare,
        self.parts.data,
        batch_size=config.batch_size,
        seed=config.seed,
        start=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        quarantine_dir=quarantine_dir,
    )


def open_run(parts: build.Parts) -> Run:
  """Checks what can be checked before anything is compiled."""
  config = parts.config
  mesh = parallel.make_mesh(parts.mesh.data, parts.mesh.fsdp)
  parallel.check_batch(config.batch_size, mesh, config.grad_accum)
  source = sources.open_source(parts.data, parts.data.train_split)
  data.check_source(source, parts.prepare, parts.data)
  training = build.training(parts)
  rng = jax.random.key(config.seed)
  shardings = parallel.state_shardings(
      mesh, jax.eval_shape(training.init, rng)
  )
  return Run(parts, training, mesh, source, rng, shardings)


def begin(run: Run):
  """(state, frozen, meta) of a run that has no checkpoint yet."""
  config = run.parts.config
  init_rng, scale_rng, stage_rng = (
      jax.random.fold_in(run.rng, i) for i in (2**32 - 1, 2**32 - 2, 2**32 - 3)
  )
  meta = {'next_example': 0}
  if run.parts.model is None:
    held = first_stage_frozen(run)
  else:
    params = start_first_stage(run, stage_rng)
    scale = config.scale_factor
    if not scale:
      stream = run.stream(0)
      batches = itertools.islice(stream, config.scale_batches)
      scale = frozen.estimate_scale(
          run.parts.codec,
          params,
          (to_device(run.mesh, batch)[1] for batch in batches),
          scale_rng,
      )
      stream.close()
      print(f'scale_factor {scale:.5f}, over {config.scale_batches} batches')
    meta['scale_factor'] = scale
    held = diffusion_frozen(run, params, scale)
  init = jax.jit(run.training.init, out_shardings=run.shardings)
  return init(init_rng), held, meta


def start_first_stage(run: Run, rng):
  """The first stage's parameters: of another run, or ("random") untrained."""
  config = run.parts.config
  if not jax.eval_shape(functools.partial(build.init_first_stage, run.parts),
                        rng):  # fmt: skip
    return {}  # Identity.
  if config.first_stage_from == 'random':
    print('The first stage is untrained: good for trying things, not images.')
    params = build.init_first_stage(run.parts, rng)
  elif config.first_stage_from:
    params = frozen.load_first_stage(
        config.first_stage_from, config.first_stage
    )
  else:
    raise UserError(
        'first_stage_from is not set: give the workdir of a trained first '
        'stage, --config.first_stage_from=DIR.'
    )
  return parallel.replicate(run.mesh, params)


def diffusion_frozen(run: Run, params, scale: float):
  scale = parallel.replicate(run.mesh, np.float32(scale))
  return {'first_stage': params, 'scale_factor': scale}


def first_stage_frozen(run: Run):
  held = first_stage_step.init_frozen(run.parts.loss)
  return parallel.replicate(run.mesh, held)


def resume(run: Run, checkpoints: checkpoint.Checkpoints):
  """(state, frozen, meta) of the newest valid checkpoint; None without one."""
  state = parallel.with_shardings(
      jax.eval_shape(run.training.init, run.rng), run.shardings
  )
  abstract = run.training.to_items(state)
  if run.parts.model is not None:
    first_stage = jax.eval_shape(
        functools.partial(build.init_first_stage, run.parts), run.rng
    )
    replicated = jax.tree.map(
        lambda _: parallel.replicated(run.mesh), first_stage
    )
    abstract['first_stage'] = parallel.with_shardings(first_stage, replicated)
  found = checkpoints.restore_latest(abstract)
  if found is None:
    return None
  step, items, meta = found
  print(f'Going on from step {step}.')
  state = run.training.from_items(items)
  if run.parts.model is None:
    return state, first_stage_frozen(run), meta
  held = diffusion_frozen(run, items['first_stage'], meta['scale_factor'])
  return state, held, meta


def to_device(mesh, batch):
  """(example ids on the host, the rest as global arrays)."""
  ids = batch.pop('example_id')
  return ids, parallel.to_global(mesh, batch)


class Shown:
  """Fixed examples, drawn again and again while training."""

  def __init__(self, run: Run):
    parts, self.mesh = run.parts, run.mesh
    split = parts.data.eval_split
    source = sources.open_source(parts.data, split)
    limit = parts.sampling.num if parts.sampling else 64
    size = int(np.ceil(limit / run.mesh.size) * run.mesh.size)
    batch = next(
        data.eval_batches(source, parts.prepare, parts.data, batch_size=size)
    )
    batch.pop('example_id')
    self.batch = {k: v[:limit] for k, v in batch.items()}
    self.padded = batch
    self.parts = parts
    self.reconstruct = jax.jit(
        lambda params, image: parts.first_stage.apply(
            {'params': params}, image
        )[0]
    )
    self.pipeline = None

  def draw(self, state, held, meta):
    """(name, images uint8, columns, scalars)."""
    if self.parts.model is None:
      return self._reconstructions(state)
    if self.pipeline is None:
      self.pipeline = LatentDiffusionPipeline(
          self.parts, {}, meta['scale_factor'], self.mesh
      )
    self.pipeline.params = {
        'first_stage': held['first_stage'],
        'model': state.params,
        'ema': state.ema,
    }
    spec = dataclasses.asdict(self.parts.sampling)
    blank = self.parts.prepare.blank(self.parts.data.size)
    inputs = {k: self.batch[k] for k in blank}
    images = self.pipeline.sample(**spec, **inputs)
    return 'samples', images, int(np.ceil(len(images) ** 0.5)), {}

  def _reconstructions(self, state):
    image = parallel.to_global(self.mesh, {'x': self.padded['image']})['x']
    again = parallel.fetch(self.reconstruct(state.params, image))
    again = np.clip(again[: len(self.batch['image'])], -1, 1)
    mse = np.mean(np.square(again - self.batch['image']), axis=(1, 2, 3))
    psnr = float(np.mean(10 * np.log10(4.0 / np.maximum(mse, 1e-10))))
    pairs = np.stack([self.batch['image'], again], 1)[:16]
    pairs = np.asarray(to_uint8(pairs.reshape(-1, *pairs.shape[2:])))
    return 'reconstructions', pairs, 8, {'eval_psnr': psnr}


def train(config, workdir: str) -> int:
  """Runs to config.num_steps; returns the process's exit code."""
  parts = build.parts(config)
  checkpoint.check_same_model(workdir, config)
  run = open_run(parts)
  top = parts.config
  checkpoints = checkpoint.Checkpoints(workdir, top.keep_checkpoints)
  state, held, meta = resume(run, checkpoints) or begin(run)
  checkpoint.write_config(workdir, config)
  meta |= {'stage': top.stage, 'versions': ldm_jax.__version__}

  first = int(state.step)
  stream = run.stream(meta['next_example'], workdir)
  shown = Shown(run)
  progress = metrics.Progress(top.num_steps, first, top.batch_size)
  with metrics.Writer(workdir, first) as writer, Preemption() as preemption:
    done, scalars = first, None
    while done < top.num_steps:
      if not stream.wait(0) and scalars is not None:
        # Only time in which the devices have nothing to do counts as waiting.
        jax.block_until_ready(scalars)
      with progress.waiting():
        batch = next(stream)
      _, batch = to_device(run.mesh, batch)
      state, scalars = run.step(state, held, batch, run.rng)
      done += 1
      if done == first + 1:
        jax.block_until_ready(scalars)
        progress.compiled(done)
      last = done == top.num_steps
      stopping = preemption.requested(done)
      if done % top.log_every == 0 or last:
        values = jax.device_get(scalars)
        values['learning_rate'] = float(run.training.learning_rate(done - 1))
        if 'latent_std' in values and parts.model is not None:
          frozen.warn_if_off_scale(done, float(values['latent_std']))
        values |= progress.log(done, values)
        writer.scalars(done, values)
      with progress.paused():
        if (done % top.show_every == 0 or last) and not stopping:
          name, images, columns, extra = shown.draw(state, held, meta)
          writer.images(done, name, images, columns)
          if extra:
            writer.scalars(done, extra)
        if done % top.save_every == 0 or last or stopping:
          items = run.training.to_items(state)
          if parts.model is not None:
            items['first_stage'] = held['first_stage']
          meta['next_example'] = stream.next_example
          checkpoints.save(done, items, meta)
        checkpoints.check()
      if stopping and not last:
        checkpoints.close()
        stream.close()
        print(f'Told to stop: saved step {done}. The same command goes on.')
        return EXIT_CODE
  progress.close()
  checkpoints.close()
  stream.close()
  return 0


def main() -> int:
  parallel.initialize()
  config = json.loads(json.dumps(_CONFIG.value.to_dict()))
  if _DRY_RUN.value:
    return 0
  return train(config, _WORKDIR.value)


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  cli.run(main)
