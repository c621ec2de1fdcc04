"""A run under way: what `train.py`'s loop touches, opened or gone on with."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import ldm_jax
from ldm_jax import build, latent_cache, same_model
from ldm_jax.data import latents, sources
from ldm_jax.data import pipeline as data
from ldm_jax.data.examples import Replacing
from ldm_jax.data.stream import DataError
from ldm_jax.interop import files
from ldm_jax.nn import conv
from ldm_jax.parts import Parts, TopLevel
from ldm_jax.pipeline import LatentDiffusionPipeline
from ldm_jax.training import (
  checkpoint,
  first_stage_step,
  frozen,
  guard,
  parallel,
)
from ldm_jax.types import Array, Params, UserError

__all__ = ['DataError', 'Run', 'about', 'begin', 'open_run', 'resume']

# Steps count up from 0; these are folded into the seed for what is no step.
_INIT, _SCALE, _FIRST_STAGE = 2**32 - 1, 2**32 - 2, 2**32 - 3


@dataclasses.dataclass
class Run:
  """The unchanging half of a run; the state is the loop's own.

  Attributes:
    parts: what the config builds.
    training: the stage's step function and initial state.
    mesh: devices.
    source, eval_source: examples to train on, and held-out ones.
    rng: all randomness is this with something folded in.
    shardings: of the state.
  """

  parts: Parts
  training: build.Training
  mesh: Mesh
  source: Any
  eval_source: Any
  rng: Array
  shardings: Any

  @property
  def config(self) -> TopLevel:
    return self.parts.config

  @functools.cached_property
  def step(self):
    """(state, frozen, batch, rng) -> (state, metrics), compiled; donates."""
    return conv.jit(
      guard.guarded(self.training.step, self.parts.guard.spike_limit),
      donate_argnums=0,
      out_shardings=(self.shardings, None),
    )

  def stream(self, start: int, quarantine_dir: str = '') -> data.Stream:
    """Training batches from global example `start` on."""
    config = self.parts.config
    stream = data.train_stream(
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
    # Speaks before the watchdog does, and knows more.
    if limit := 60 * self.parts.guard.watchdog_minutes:
      stream.stall_limit = min(stream.stall_limit, 0.8 * limit)
    return stream

  def to_device(self, batch: dict) -> tuple[np.ndarray, dict[str, Array]]:
    """(example ids, which stay on the host; the rest as global arrays)."""
    ids = batch.pop('example_id')
    return ids, parallel.to_global(self.mesh, batch)

  @functools.cached_property
  def _sampler(self) -> LatentDiffusionPipeline:
    return LatentDiffusionPipeline(self.parts, {}, 1.0, self.mesh)

  def sampler(self, state: Any, held: Params) -> LatentDiffusionPipeline:
    """The pipeline of a state; of the state that was asked for last."""
    ldm = self._sampler
    ldm.scale_factor = float(held['scale_factor'])
    ldm.params = {
      'first_stage': held['first_stage'],
      'model': state.params,
      'ema': state.ema,
    }
    return ldm

  def to_items(self, state: Any, held: Params) -> dict[str, Any]:
    """The items of a checkpoint: whole, so that sampling needs nothing else."""
    items = self.training.to_items(state)
    if self.parts.on_latents:
      items['first_stage'] = held['first_stage']
    return items

  @functools.cached_property
  def abstract_state(self) -> Any:
    """The state's shapes with their shardings."""
    shapes = jax.eval_shape(self.training.init, self.rng)
    return parallel.with_shardings(shapes, self.shardings)

  @functools.cached_property
  def abstract_first_stage(self) -> Params:
    """The frozen first stage's shapes, on every device."""
    shapes = jax.eval_shape(
      functools.partial(build.init_first_stage, self.parts), self.rng
    )
    everywhere = jax.tree.map(lambda _: parallel.replicated(self.mesh), shapes)
    return parallel.with_shardings(shapes, everywhere)


def open_run(parts: Parts) -> Run:
  """Checks devices and data; nothing is compiled yet.

  Raises:
    UserError: a batch that the devices don't divide, data that isn't there, or
      data that the latent cache cannot hold.
  """
  if parts.cached:
    latents.check_crop(parts.data)
  mesh = _mesh(parts)
  source = sources.open_source(parts.data, parts.data.train_split)
  data.check_source(source, parts.prepare, parts.data)
  eval_source = sources.open_source(parts.data, parts.data.eval_split)
  if hasattr(eval_source, 'name'):  # Stored: some may be damaged.
    eval_source = Replacing(eval_source, parts.data)
  return _run(parts, mesh, source, eval_source)


def without_data(parts: Parts) -> Run:
  """A run of shapes alone, whose sources are None; raises as `open_run`."""
  return _run(parts, _mesh(parts), None, None)


def _mesh(parts: Parts) -> Mesh:
  mesh = parallel.make_mesh(parts.mesh.data, parts.mesh.fsdp)
  parallel.check_batch(parts.config.batch_size, mesh, parts.config.grad_accum)
  return mesh


def _run(parts: Parts, mesh: Mesh, source: Any, eval_source: Any) -> Run:
  if parts.sampling is not None and parts.sampling.guidance != 1:
    # Pictures are drawn hours after the start.
    parts.check_null(f'sampling.guidance={parts.sampling.guidance}')
  gather = functools.partial(parallel.gather, mesh)
  training = build.training(parts, gather)
  rng = jax.random.key(parts.config.seed)
  shapes = jax.eval_shape(training.init, rng)
  shardings = parallel.state_shardings(mesh, shapes)
  run = Run(parts, training, mesh, source, eval_source, rng, shardings)
  if parts.on_latents:
    _ = run.abstract_first_stage  # Raises where it cannot be built.
  return run


def use_cache(run: Run, held: Params, beat, stop=lambda number: False) -> bool:
  """Trains on latents from `config.latent_cache` where that is set.

  Returns whether the run can go on: it cannot where `stop` said so.
  """
  if run.parts.cached:
    run.source = latent_cache.open_cache(
      run.parts, run.source, held['first_stage'], beat, stop
    )
  return run.source is not None


def check_begin(parts: Parts) -> None:
  """Raises UserError unless what a new run starts from is there and fits.

  Nothing is compiled for that, and no weights are read.
  """
  config = parts.config
  if parts.cached:
    latents.check_crop(parts.data)
  if config.init_from:
    same_model.check_start(config.init_from, dataclasses.asdict(config))
  has_weights = config.first_stage.get('name') != 'identity'
  if not parts.on_latents or not has_weights:
    return
  if config.first_stage_from == 'random':
    return
  workdir = config.first_stage_from or config.init_from
  if not workdir:
    raise UserError(
      'first_stage_from is not set: give the workdir of a trained first '
      'stage, --config.first_stage_from=DIR.'
    )
  key = 'first_stage_from' if config.first_stage_from else 'init_from'
  same_model.check(
    workdir,
    {'first_stage': config.first_stage},
    f'{key}={workdir} holds another first stage than this config names. Give '
    "the workdir of one like it, or make this config's first_stage that one's.",
    ('first_stage',),
  )
  if parts.classifier is not None:
    guided = build.parts(checkpoint.read_config(workdir))
    build.check_same_schedule(guided, parts, workdir)


def begin(run: Run) -> tuple[Any, Params, dict[str, Any]]:
  """(state, frozen, meta) of a run that has no checkpoint yet."""
  check_begin(run.parts)
  warm = _read_warm(run)
  fold = functools.partial(jax.random.fold_in, run.rng)
  meta = {'next_example': 0}
  if not run.parts.on_latents:
    held = first_stage_frozen(run)
  else:
    params = _start_first_stage(run, fold(_FIRST_STAGE))
    meta['scale_factor'] = _scale(run, params, fold(_SCALE))
    held = _diffusion_frozen(run, params, meta['scale_factor'])
  init = jax.jit(run.training.init, out_shardings=run.shardings)
  state = init(fold(_INIT))
  if warm is not None:
    state = _warmed(run, state, warm)
  return state, held, meta


def resume(
  run: Run, checkpoints: checkpoint.Checkpoints
) -> tuple[Any, Params, dict[str, Any]] | None:
  """(state, frozen, meta) of the newest valid checkpoint; None without one."""
  abstract = run.training.to_items(run.abstract_state)
  if run.parts.on_latents:
    abstract['first_stage'] = run.abstract_first_stage
  # A limit of spikes may be set, and taken back, on the way.
  found = checkpoints.restore_latest(abstract, optional=['train/watch/'])
  if found is None:
    return None
  _, items, meta = found
  state = run.training.from_items(items)
  if None in state.watch.values():
    fresh = guard.watch(run.parts.guard.spike_limit)
    state = state.replace(watch=parallel.replicate(run.mesh, fresh))
  if not run.parts.on_latents:
    return state, first_stage_frozen(run), meta
  held = _diffusion_frozen(run, items['first_stage'], meta['scale_factor'])
  return state, held, meta


def _read_warm(run: Run) -> dict[str, Any] | None:
  """The weights of `config.init_from`, placed as the state's; None without."""
  workdir = run.parts.config.init_from
  if not workdir:
    return None
  abstract = run.training.to_items(run.abstract_state)
  abstract.pop('train')
  items, _ = checkpoint.load_items(
    workdir, list(abstract), abstract_items=abstract
  )
  print(f'Starting from the weights of {workdir}.')
  if run.parts.model is not None:
    config = dataclasses.asdict(run.parts.config)
    same_model.warn_of_another_target(workdir, config)
  return items


def _warmed(run: Run, state: Any, items: dict[str, Any]) -> Any:
  """A fresh state with these weights.

  The U-Net starts from averaged weights, and so does its average.
  """
  if run.parts.model is None:
    (params,) = items.values()
    return state.replace(params=params)
  # Two buffers: both are donated.
  unet = jax.tree.map(jnp.copy, items['ema'])
  return state.replace(
    params={**items['model'], 'unet': unet}, ema=items['ema']
  )


def about(run: Run) -> dict[str, Any]:
  """What every checkpoint says of its run."""
  return {
    'stage': run.parts.config.stage,
    'versions': {'ldm_jax': ldm_jax.__version__, 'jax': jax.__version__},
  }


def _start_first_stage(run: Run, rng: Array) -> Params:
  """The first stage's parameters: of another run, or ('random') untrained."""
  config = run.parts.config
  if not run.abstract_first_stage:
    return {}  # The identity's.
  if config.first_stage_from == 'random':
    print('The first stage is untrained: good for trying things, not images.')
    params = build.init_first_stage(run.parts, rng)
  else:
    workdir = config.first_stage_from or config.init_from
    params = frozen.load_first_stage(workdir)
  return parallel.replicate(run.mesh, params)


def _scale(run: Run, params: Params, rng: Array) -> float:
  config = run.parts.config
  if config.scale_factor:
    return config.scale_factor
  if not params:
    return 1.0  # Pixels are at unit scale as they are.
  if config.init_from and not config.first_stage_from:
    return frozen.read_scale(config.init_from)
  if run.parts.classifier is not None and config.first_stage_from != 'random':
    return frozen.read_scale(config.first_stage_from)
  stream = run.stream(0)
  batches = itertools.islice(stream, config.scale_batches)
  scale = frozen.estimate_scale(
    run.parts.codec,
    params,
    (run.to_device(batch)[1] for batch in batches),
    rng,
  )
  stream.close()
  print(f'scale_factor {scale:.5f}, from {config.scale_batches} batches')
  return scale


def _diffusion_frozen(run: Run, params: Params, scale: float) -> Params:
  scale = parallel.replicate(run.mesh, np.float32(scale))
  return {'first_stage': params, 'scale_factor': scale}


def first_stage_frozen(run: Run) -> Params:
  held = first_stage_step.init_frozen(run.parts.loss, files.read_published)
  return parallel.replicate(run.mesh, held)
