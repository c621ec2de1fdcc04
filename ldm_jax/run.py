"""A run under way: what `train.py`'s loop touches, opened or gone on with."""

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import ldm_jax
from ldm_jax import build, latent_cache
from ldm_jax.data import panels, sources
from ldm_jax.data import pipeline as data
from ldm_jax.data.stream import DataError
from ldm_jax.evaluation import reconstruction
from ldm_jax.first_stage.codec import to_uint8
from ldm_jax.interop import files
from ldm_jax.nn import conv
from ldm_jax.parts import Parts, TopLevel
from ldm_jax.pipeline import LatentDiffusionPipeline
from ldm_jax.training import (
  checkpoint,
  classifier_step,
  first_stage_step,
  frozen,
  guard,
  parallel,
)
from ldm_jax.types import Array, Params, UserError

__all__ = ['DataError', 'Panel', 'Run', 'about', 'begin', 'open_run', 'resume']

# Steps count up from 0; these are folded into the seed for what is no step.
_INIT, _SCALE, _FIRST_STAGE = 2**32 - 1, 2**32 - 2, 2**32 - 3
_GAP = 2  # pixels between the images of a panel


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
    return jax.jit(
      guard.guarded(self.training.step, self.parts.guard.spike_limit),
      donate_argnums=0,
      out_shardings=(self.shardings, None),
      compiler_options=conv.cpu_compiler_options(),
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
    UserError: a batch that the devices don't divide, or data that isn't there.
  """
  config = parts.config
  mesh = parallel.make_mesh(parts.mesh.data, parts.mesh.fsdp)
  parallel.check_batch(config.batch_size, mesh, config.grad_accum)
  source = sources.open_source(parts.data, parts.data.train_split)
  data.check_source(source, parts.prepare, parts.data)
  eval_source = sources.open_source(parts.data, parts.data.eval_split)
  gather = functools.partial(parallel.gather, mesh)
  training = build.training(parts, gather)
  rng = jax.random.key(config.seed)
  shapes = jax.eval_shape(training.init, rng)
  shardings = parallel.state_shardings(mesh, shapes)
  run = Run(parts, training, mesh, source, eval_source, rng, shardings)
  if parts.on_latents:
    _ = run.abstract_first_stage  # Raises where it cannot be built.
  return run


def use_cache(run: Run, held: Params, beat) -> None:
  """Trains on latents from `config.latent_cache` where that is set."""
  if run.parts.cached:
    run.source = latent_cache.open_cache(
      run.parts, run.source, held['first_stage'], beat
    )


def begin(run: Run) -> tuple[Any, Params, dict[str, Any]]:
  """(state, frozen, meta) of a run that has no checkpoint yet."""
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
  if run.parts.config.init_from:
    state = _warm(run, state)
  return state, held, meta


def resume(
  run: Run, checkpoints: checkpoint.Checkpoints
) -> tuple[Any, Params, dict[str, Any]] | None:
  """(state, frozen, meta) of the newest valid checkpoint; None without one."""
  abstract = run.training.to_items(run.abstract_state)
  if run.parts.on_latents:
    abstract['first_stage'] = run.abstract_first_stage
  found = checkpoints.restore_latest(abstract)
  if found is None:
    return None
  _, items, meta = found
  state = run.training.from_items(items)
  if not run.parts.on_latents:
    return state, first_stage_frozen(run), meta
  held = _diffusion_frozen(run, items['first_stage'], meta['scale_factor'])
  return state, held, meta


def _warm(run: Run, state: Any) -> Any:
  """A fresh state with the weights of `config.init_from`.

  The U-Net starts from that run's averaged weights, and so does its average.
  """
  workdir = run.parts.config.init_from
  abstract = run.training.to_items(run.abstract_state)
  abstract.pop('train')
  items, _ = checkpoint.load_items(
    workdir, list(abstract), abstract_items=abstract
  )
  print(f'Starting from the weights of {workdir}.')
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
  elif workdir := config.first_stage_from or config.init_from:
    if run.parts.classifier is not None:
      guided = build.parts(checkpoint.read_config(workdir))
      build.check_same_schedule(guided, run.parts, workdir)
    params = frozen.load_first_stage(workdir, config.first_stage)
  else:
    raise UserError(
      'first_stage_from is not set: give the workdir of a trained first '
      'stage, --config.first_stage_from=DIR.'
    )
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


class Panel:
  """The pictures of a run: fixed held-out examples, drawn again and again."""

  def __init__(self, run: Run):
    self.run, parts = run, run.parts
    limit = parts.sampling.num if parts.sampling is not None else 64
    devices = run.mesh.size
    batch = next(
      data.eval_batches(
        run.eval_source,
        parts.prepare,
        parts.data,
        batch_size=math.ceil(limit / devices) * devices,
        limit=limit,
      )
    )
    self.count = int(np.sum(batch.pop('example_id') >= 0))
    self.batch = batch

  def draw(self, state: Any, held: Params):
    """(name, one picture uint8 [H W 3], scalars)."""
    if not self.run.parts.on_latents:
      return self._reconstructions(state)
    if self.run.parts.classifier is not None:
      return self._classified(state, held)
    return self._samples(state, held)

  def _samples(self, state, held):
    ldm = self.run.sampler(state, held)
    spec = dataclasses.asdict(self.run.parts.sampling) | {'num': self.count}
    blank = self.run.parts.prepare.blank(self.run.parts.data.size)
    inputs = {k: self.batch[k][: self.count] for k in blank}
    images = ldm.sample(**spec, **inputs)
    if not hasattr(ldm.parts.prepare, 'show'):
      return 'samples', panels.grid(images, gap=_GAP), {}
    shown = ldm.parts.prepare.show(inputs, images.shape[1:3])
    pairs = np.stack([shown, images], axis=1).reshape(-1, *images.shape[1:])
    return 'samples', panels.grid(pairs, 8, _GAP), {}

  @functools.cached_property
  def _classify(self):
    parts = self.run.parts
    return jax.jit(
      classifier_step.make_evaluation(
        parts.classifier, parts.codec, parts.schedule
      )
    )

  def _classified(self, state, held):
    """What it sees of the first examples, and how often it is right."""
    here = parallel.to_global(self.run.mesh, dict(self.batch))
    right, seen = self._classify(state.params, held, here, self.run.rng)
    right, seen = (
      parallel.fetch(jnp.moveaxis(x, 1, 0))[: self.count] for x in (right, seen)
    )  # [N levels ...]
    scores = {
      f'eval_accuracy_{i}': float(score)
      for i, score in enumerate(right.mean(0))
    }
    seen = seen[:8].reshape(-1, *seen.shape[2:])
    return 'seen', panels.grid(to_uint8(seen), right.shape[1], _GAP), scores

  @functools.cached_property
  def _reconstruct(self):
    apply = self.run.parts.first_stage.apply
    return jax.jit(lambda params, image: apply({'params': params}, image)[0])

  def _reconstructions(self, state):
    """Pairs of image and reconstruction, the first 16, and their PSNR."""
    here = parallel.to_global(self.run.mesh, {'image': self.batch['image']})
    again = self._reconstruct(state.params, here['image'])
    image, again = (
      parallel.fetch(x)[: self.count] for x in (here['image'], again)
    )
    again = np.clip(again, -1.0, 1.0)
    psnr = np.mean(reconstruction.psnr(image, again))
    pairs = np.stack([image, again], axis=1)[:16]
    pairs = to_uint8(pairs.reshape(-1, *image.shape[1:]))
    picture = panels.grid(pairs, 8, _GAP)
    return 'reconstructions', picture, {'eval_psnr': float(psnr)}
