"""Turns a config into objects. No other file in ldm_jax sees a ConfigDict.

A section's keys are the field names of what it builds, so a misspelt key is
found here, before anything is compiled, and answered with the nearest name.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ldm_jax import sections
from ldm_jax.data.spec import DataSpec
from ldm_jax.diffusion import schedule as schedules
from ldm_jax.diffusion.loss import LossSpec as DiffusionLossSpec
from ldm_jax.first_stage import autoencoder
from ldm_jax.first_stage.losses import LossSpec as FirstStageLossSpec
from ldm_jax.models.classifier import NoisyClassifier
from ldm_jax.models.latent_diffusion import LatentDiffusion
from ldm_jax.models.unet import UNet
from ldm_jax.parts import MeshSpec, Parts, SamplingSpec, TopLevel
from ldm_jax.tasks import TASKS
from ldm_jax.training import (
  classifier_step,
  diffusion_step,
  first_stage_step,
  guard,
  optim,
)
from ldm_jax.training.profile import ProfileSpec
from ldm_jax.types import Array, Params, UserError

FIRST_STAGES = {
  'kl': autoencoder.AutoencoderKL,
  'vq': autoencoder.AutoencoderVQ,
  'identity': autoencoder.Identity,
}
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def parts(config: Mapping[str, Any]) -> Parts:
  """Builds everything but the weights.

  Raises:
    UserError: an unknown, missing or impossible key, named with its section.
  """
  top = sections.construct('', TopLevel, config)
  if top.dtype not in DTYPES:
    raise UserError(f'dtype={top.dtype!r}; allowed: {", ".join(DTYPES)}.')
  _positive(top, ('num_steps', 'batch_size', 'grad_accum', 'log_every',
                  'show_every', 'save_every', 'keep_checkpoints',
                  'eval_num'))  # fmt: skip
  if top.eval_num < 2:
    raise UserError(f'eval_num={top.eval_num}: one image has no distribution.')
  if top.eval_every < 0:
    raise UserError(f'eval_every={top.eval_every} must be 0 (never) or more.')
  if top.keep_every < 0 or top.keep_every % top.save_every:
    raise UserError(
      f'keep_every={top.keep_every} must be 0 (none) or a multiple of '
      f'save_every={top.save_every}: other steps are never saved.'
    )
  dtype = DTYPES[top.dtype]
  shared = {
    'config': top,
    'data': sections.construct('data', DataSpec, top.data),
    'first_stage': first_stage(top.first_stage, dtype),
    'mesh': sections.construct('mesh', MeshSpec, top.mesh),
    'optim': sections.construct('optim', optim.OptimSpec, top.optim),
    'guard': sections.construct('guard', guard.GuardSpec, top.guard),
    'profile': sections.construct('profile', ProfileSpec, top.profile),
  }
  if top.stage not in _STAGES:
    raise UserError(
      f'stage={top.stage!r}; allowed: {", ".join(map(repr, _STAGES))}.'
    )
  built = _STAGES[top.stage](top, dtype, shared)
  built.sampled_shape(built.data.size, built.data.size)  # Checks the size.
  enough = getattr(built.prepare, 'latent_is_enough', False)
  if built.cached and not (enough and built.on_latents):
    raise UserError(
      f'latent_cache={top.latent_cache!r}: '
      + (
        f'task.name={top.task["name"]!r} needs the images themselves.'
        if built.on_latents
        else "stage='first_stage' trains on images."
      )
      + ' Leave it unset.'
    )
  return built


def _first_stage_parts(top: TopLevel, dtype, shared) -> Parts:
  del dtype
  return Parts(
    prepare=TASKS['unconditional'].prepare(),
    loss=sections.construct('loss', FirstStageLossSpec, top.loss),
    **shared,
  )


def _diffusion_parts(top: TopLevel, dtype, shared) -> Parts:
  loss = sections.construct('loss', DiffusionLossSpec, top.loss)
  schedule = sections.call('schedule', schedules.make, top.schedule)
  if top.schedule.get('zero_terminal_snr') and loss.prediction == 'eps':
    raise UserError(
      'schedule.zero_terminal_snr=True ends on noise alone, where '
      "loss.prediction='eps' finds no data; set it to 'v' or 'x0'."
    )
  conditioner, prepare = task(top.task, dtype, top.null_prob)
  built = Parts(
    prepare=prepare,
    loss=loss,
    schedule=schedule,
    model=LatentDiffusion(
      unet=sections.construct('unet', UNet, top.unet, dtype=dtype),
      conditioner=conditioner,
      null_prob=top.null_prob or 0.0,
      logvar_timesteps=(schedule.num_timesteps if loss.learn_logvar else 0),
      logvar_init=loss.logvar_init,
    ),
    sampling=sections.construct('sampling', SamplingSpec, top.sampling),
    **shared,
  )
  built.model.unet.check()
  latent = built.first_stage.latent_channels
  if built.model.unet.out_channels != latent:
    raise UserError(
      f'unet.out_channels={built.model.unet.out_channels} is not what the '
      f"first stage's latents have; set it to {latent}."
    )
  # Pictures are drawn hours after the start: what they need is checked now.
  built.sampling.plan(schedule, pixels=built.first_stage.downsampling == 1)
  built.check_guidance(built.sampling.guidance)
  return built


def _classifier_parts(top: TopLevel, dtype, shared) -> Parts:
  classifier = sections.construct(
    'classifier', NoisyClassifier, top.classifier, dtype=dtype
  )
  classifier.check()
  return Parts(
    prepare=TASKS['class_label'].prepare(classifier.num_classes),
    loss=None,
    schedule=sections.call('schedule', schedules.make, top.schedule),
    classifier=classifier,
    **shared,
  )


_STAGES = {
  'first_stage': _first_stage_parts,
  'diffusion': _diffusion_parts,
  'classifier': _classifier_parts,
}


def check_same_schedule(there: Parts, here: Parts, workdir: str):
  """Raises UserError where a run and its guide know other noise levels."""
  if there.schedule is None:
    raise UserError(f'{workdir} is no diffusion run; give the workdir of one.')
  if not np.array_equal(there.schedule.alpha_bar, here.schedule.alpha_bar):
    raise UserError(
      f'{workdir} has schedule={there.config.schedule}, and this run '
      f'{here.config.schedule}; a classifier and the run that it guides must '
      'have the same.'
    )


def first_stage(section: Mapping[str, Any], dtype: Any = jnp.float32):
  """The autoencoder of a config's `first_stage` section."""
  fields = sections.plain(section)
  kind = sections.pick(
    'first_stage.name', fields.pop('name', None), FIRST_STAGES
  )
  extra = {} if kind is autoencoder.Identity else {'dtype': dtype}
  return sections.construct('first_stage', kind, fields, **extra)


def task(
  section: Mapping[str, Any],
  dtype: Any = jnp.float32,
  null_prob: float | None = 0.0,
):
  """(conditioner, Prepare) of a config's `task` section.

  The section's keys are the fields of both; a field that both have is given
  once. `dtype` and `null_prob` are the run's, for those that have them.
  """
  fields = sections.plain(section)
  kinds = sections.pick('task.name', fields.pop('name', None), TASKS)
  names = [sections.fields_of(kind) for kind in kinds]
  sections.check_keys('task', fields, {**names[0], **names[1]})
  of_run = {'dtype': dtype, 'null_prob': null_prob}
  return tuple(
    sections.construct(
      'task',
      kind,
      {k: v for k, v in fields.items() if k in known},
      **{k: v for k, v in of_run.items() if k in known},
    )
    for kind, known in zip(kinds, names, strict=True)
  )


@dataclasses.dataclass(frozen=True)
class Training:
  """What the loop needs of a stage.

  `items` says which fields of the state are checkpoint items of their own, so
  that sampling reads those alone; all other fields are the item 'train'.
  """

  init: Callable[[Array], Any]  # rng -> state
  step: Callable  # (state, frozen, batch, rng) -> (state, metrics)
  state_class: type
  items: Mapping[str, str]
  learning_rate: Callable[[Array], Array]

  def to_items(self, state: Any) -> dict[str, Any]:
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    items = {item: fields.pop(name) for name, item in self.items.items()}
    return {**items, 'train': fields}

  def from_items(self, items: Mapping[str, Any]) -> Any:
    fields = {name: items[item] for name, item in self.items.items()}
    return self.state_class(**fields, **items['train'])


def training(
  built: Parts, gather: Callable[[Params], Params] = lambda params: params
) -> Training:
  """The stage's pure step function and its initial state.

  `gather` makes sharded parameters whole; see training.parallel.
  """
  top = built.config
  optimizer = lambda frozen=(): optim.make(
    built.optim, top.num_steps, top.batch_size, frozen
  )
  learning_rate = optim.learning_rate(
    built.optim, top.num_steps, top.batch_size
  )
  watch = guard.watch(built.guard.spike_limit)
  if not built.on_latents:
    tx, disc_tx = optimizer(), optimizer()
    side = built.data.size
    return Training(
      init=lambda rng: first_stage_step.init_state(
        built.first_stage, built.loss, tx, disc_tx, rng, (side, side, 3)
      ).replace(watch=watch),
      step=first_stage_step.make_train_step(
        built.first_stage, built.loss, tx, disc_tx, top.grad_accum, gather
      ),
      state_class=first_stage_step.FirstStageState,
      items={'params': 'first_stage'},
      learning_rate=learning_rate,
    )
  if built.classifier is not None:
    tx = optimizer()
    return Training(
      init=lambda rng: classifier_step.init_state(
        built.classifier, tx, built.latent_shape, rng
      ).replace(watch=watch),
      step=classifier_step.make_train_step(
        built.classifier,
        built.train_codec,
        built.schedule,
        tx,
        top.grad_accum,
        gather,
      ),
      state_class=classifier_step.ClassifierState,
      items={'params': 'classifier'},
      learning_rate=learning_rate,
    )
  tx = optimizer(built.model.frozen)
  return Training(
    init=lambda rng: init_diffusion_state(built, tx, rng).replace(watch=watch),
    step=diffusion_step.make_train_step(
      built.model,
      built.train_codec,
      built.schedule,
      built.loss,
      tx,
      top.ema_decay,
      top.grad_accum,
      gather,
    ),
    state_class=diffusion_step.TrainState,
    items={'params': 'model', 'ema': 'ema'},
    learning_rate=learning_rate,
  )


def init_diffusion_state(built: Parts, tx, rng: Array):
  """A fresh state; encoding images needs no weights for its shapes."""
  latent = built.latent_shape
  encode = lambda image: jnp.zeros((image.shape[0], *latent))
  return diffusion_step.init_state(
    built.model, tx, latent, built.blank_batch(1), encode, rng
  )


def init_first_stage(built: Parts, rng: Array):
  """Fresh first-stage parameters; Identity has none."""
  side = built.data.size
  channels = getattr(built.first_stage, 'in_channels', 3)
  image = jnp.zeros((1, side, side, channels))
  return built.first_stage.init(rng, image).get('params', {})


def plain(config: Any) -> dict[str, Any]:
  """A ConfigDict as config.json holds it; unset placeholders are None."""
  return json.loads(json.dumps(config.to_dict()))


def _positive(top: TopLevel, names):
  for name in names:
    if getattr(top, name) < 1:
      raise UserError(f'{name}={getattr(top, name)} must be at least 1.')
