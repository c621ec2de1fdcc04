"""Turns a config into objects. No other file in ldm_jax sees a ConfigDict.

A section's keys are the field names of what it builds, so a misspelt key is
found here, before anything is compiled, and answered with the nearest name.
"""

import dataclasses
import difflib
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldm_jax.data.spec import DataSpec
from ldm_jax.diffusion import schedule as schedules
from ldm_jax.diffusion.loss import LossSpec as DiffusionLossSpec
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.first_stage import autoencoder
from ldm_jax.first_stage.codec import Codec
from ldm_jax.first_stage.losses import LossSpec as FirstStageLossSpec
from ldm_jax.models.latent_diffusion import LatentDiffusion
from ldm_jax.models.unet import UNet
from ldm_jax.tasks import TASKS
from ldm_jax.training import diffusion_step, first_stage_step, optim
from ldm_jax.types import Array, Params, UserError

FIRST_STAGES = {
  'kl': autoencoder.AutoencoderKL,
  'vq': autoencoder.AutoencoderVQ,
  'identity': autoencoder.Identity,
}
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class TopLevel:
  """The keys of a config, and its sections; see the README's table."""

  stage: str
  num_steps: int
  batch_size: int
  data: dict
  first_stage: dict
  loss: dict
  optim: dict
  seed: int = 0
  grad_accum: int = 1
  dtype: str = 'float32'
  log_every: int = 100
  show_every: int = 5_000
  save_every: int = 10_000
  keep_checkpoints: int = 3
  mesh: dict = dataclasses.field(default_factory=dict)
  # Of the diffusion stage:
  first_stage_from: str = ''
  scale_factor: float = 0.0  # 0: estimated over scale_batches batches
  scale_batches: int = 8
  task: dict = dataclasses.field(default_factory=dict)
  null_prob: float = 0.0
  unet: dict = dataclasses.field(default_factory=dict)
  schedule: dict = dataclasses.field(default_factory=dict)
  ema_decay: float = 0.9999
  sampling: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SamplingSpec:
  """The fixed-seed samples drawn while training."""

  num: int = 8
  steps: int = 50
  eta: float = 0.0
  guidance: float = 1.0
  spacing: str = 'leading'
  sampler: str = 'ddim'


@dataclasses.dataclass(frozen=True)
class MeshSpec:
  """Devices along each axis; -1: what the other leaves."""

  data: int = -1
  fsdp: int = 1


@dataclasses.dataclass(frozen=True)
class Parts:
  """A run without its weights. The last five are None in a first stage's."""

  config: TopLevel
  data: DataSpec
  first_stage: nn.Module
  prepare: Any
  mesh: MeshSpec
  loss: FirstStageLossSpec | DiffusionLossSpec
  optim: optim.OptimSpec
  model: LatentDiffusion | None = None
  schedule: Schedule | None = None
  sampling: SamplingSpec | None = None

  @property
  def codec(self) -> Codec:
    return Codec(self.first_stage)

  @property
  def latent_shape(self) -> tuple[int, int, int]:
    """(h, w, c) of a training image's latent."""
    return self.latent_shape_of(self.data.size, self.data.size)

  def latent_shape_of(self, height: int, width: int) -> tuple[int, int, int]:
    f = self.first_stage.downsampling
    if height % f or width % f:
      raise UserError(
        f"size {height}x{width} does not divide by the first stage's f={f}."
      )
    return height // f, width // f, self.first_stage.latent_channels

  def blank_batch(self, size: int) -> dict[str, np.ndarray]:
    """A batch of zeros in the shapes of training."""
    side = self.data.size
    blank = {
      'image': np.zeros((side, side, 3), np.float32),
      **self.prepare.blank(side),
    }
    return {k: np.stack([v] * size) for k, v in blank.items()}


def parts(config: Mapping[str, Any]) -> Parts:
  """Builds everything but the weights.

  Raises:
    UserError: an unknown, missing or impossible key, named with its section.
  """
  top = construct('', TopLevel, config)
  if top.dtype not in DTYPES:
    raise UserError(f'dtype={top.dtype!r}; allowed: {", ".join(DTYPES)}.')
  _positive(top, ('num_steps', 'batch_size', 'grad_accum', 'log_every',
                  'show_every', 'save_every', 'keep_checkpoints'))  # fmt: skip
  dtype = DTYPES[top.dtype]
  shared = {
    'config': top,
    'data': construct('data', DataSpec, top.data),
    'first_stage': first_stage(top.first_stage, dtype),
    'mesh': construct('mesh', MeshSpec, top.mesh),
    'optim': construct('optim', optim.OptimSpec, top.optim),
  }
  if top.stage == 'first_stage':
    built = Parts(
      prepare=TASKS['unconditional'].prepare(),
      loss=construct('loss', FirstStageLossSpec, top.loss),
      **shared,
    )
  elif top.stage == 'diffusion':
    loss = construct('loss', DiffusionLossSpec, top.loss)
    schedule = _call('schedule', schedules.make, top.schedule)
    conditioner, prepare = task(top.task, dtype)
    built = Parts(
      prepare=prepare,
      loss=loss,
      schedule=schedule,
      model=LatentDiffusion(
        unet=construct('unet', UNet, top.unet, dtype=dtype),
        conditioner=conditioner,
        null_prob=top.null_prob,
        logvar_timesteps=(schedule.num_timesteps if loss.learn_logvar else 0),
        logvar_init=loss.logvar_init,
      ),
      sampling=construct('sampling', SamplingSpec, top.sampling),
      **shared,
    )
    built.model.unet.check()
  else:
    raise UserError(
      f"stage={top.stage!r}; allowed: 'first_stage', 'diffusion'."
    )
  built.latent_shape_of(built.data.size, built.data.size)  # Checks the size.
  return built


def first_stage(section: Mapping[str, Any], dtype: Any = jnp.float32):
  """The autoencoder of a config's `first_stage` section."""
  fields = _plain(section)
  kind = _pick('first_stage.name', fields.pop('name', None), FIRST_STAGES)
  extra = {} if kind is autoencoder.Identity else {'dtype': dtype}
  return construct('first_stage', kind, fields, **extra)


def task(section: Mapping[str, Any], dtype: Any = jnp.float32):
  """(conditioner, Prepare) of a config's `task` section.

  The section's keys are the fields of both; a field that both have is given
  once.
  """
  fields = _plain(section)
  kinds = _pick('task.name', fields.pop('name', None), TASKS)
  names = [fields_of(kind) for kind in kinds]
  _check_keys('task', fields, {**names[0], **names[1]})
  conditioner, prepare = (
    construct('task', kind, {k: v for k, v in fields.items() if k in known})
    for kind, known in zip(kinds, names, strict=True)
  )
  if 'dtype' in names[0]:
    conditioner = conditioner.clone(dtype=dtype)
  return conditioner, prepare


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
  optimizer = lambda: optim.make(built.optim, top.num_steps, top.batch_size)
  learning_rate = optim.learning_rate(
    built.optim, top.num_steps, top.batch_size
  )
  if built.model is None:
    tx, disc_tx = optimizer(), optimizer()
    side = built.data.size
    return Training(
      init=lambda rng: first_stage_step.init_state(
        built.first_stage, built.loss, tx, disc_tx, rng, (side, side, 3)
      ),
      step=first_stage_step.make_train_step(
        built.first_stage, built.loss, tx, disc_tx, top.grad_accum, gather
      ),
      state_class=first_stage_step.FirstStageState,
      items={'params': 'first_stage'},
      learning_rate=learning_rate,
    )
  tx = optimizer()
  return Training(
    init=lambda rng: init_diffusion_state(built, tx, rng),
    step=diffusion_step.make_train_step(
      built.model,
      built.codec,
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
  image = jnp.zeros((1, side, side, 3))
  return built.first_stage.init(rng, image).get('params', {})


def construct(
  section: str, kind: type, values: Mapping[str, Any], **extra
) -> Any:
  """kind(**values, **extra); keys and types are checked against its fields.

  Values that are None (an unset placeholder) leave the field its default.

  Raises:
    UserError: naming the key, its section, its value and what is allowed.
  """
  values = {k: v for k, v in _plain(values).items() if v is not None}
  known = fields_of(kind)
  # A module's dtype is the run's, never a section's own.
  hidden = {'dtype', *extra} if issubclass(kind, nn.Module) else {*extra}
  _check_keys(section, values, {k: v for k, v in known.items()
                                if k not in hidden})  # fmt: skip
  missing = [
    name
    for name, field in known.items()
    if name not in values
    and name not in extra
    and field.default is dataclasses.MISSING
    and field.default_factory is dataclasses.MISSING
  ]
  if missing:
    raise UserError(f'{_key(section, missing[0])} is missing from the config.')
  hints = _hints(kind)
  values = {
    k: _fitted(_key(section, k), v, hints[k]) for k, v in values.items()
  }
  return kind(**values, **extra)


def fields_of(kind: type) -> dict[str, dataclasses.Field]:
  """A dataclass's or Linen module's own fields, by name."""
  return {
    f.name: f
    for f in dataclasses.fields(kind)
    if f.init and f.name not in ('parent', 'name')
  }


def plain(config: Any) -> dict[str, Any]:
  """A ConfigDict as config.json holds it; unset placeholders are None."""
  return json.loads(json.dumps(config.to_dict()))


def _call(section: str, function: Callable, values: Mapping[str, Any]):
  """As `construct`, for a function whose arguments are the keys."""
  hints = _hints(function)
  values = {k: v for k, v in _plain(values).items() if v is not None}
  _check_keys(section, values, [k for k in hints if k != 'return'])
  return function(
    **{k: _fitted(_key(section, k), v, hints[k]) for k, v in values.items()}
  )


@functools.cache
def _hints(kind) -> dict[str, Any]:
  return typing.get_type_hints(kind)


def _check_keys(section: str, values, known):
  for key in values:
    if key not in known:
      near = difflib.get_close_matches(key, known, 1, 0.5)
      hint = f' Did you mean {_key(section, near[0])!r}?' if near else ''
      raise UserError(
        f'{_key(section, key)!r} is not a config key.{hint} '
        f'Known there: {", ".join(known) or "none"}.'
      )


def _fitted(key: str, value: Any, hint: Any) -> Any:
  """The value in the hinted type; ints pass as floats, lists as tuples."""
  options = (
    typing.get_args(hint)
    if isinstance(hint, types.UnionType)
    or typing.get_origin(hint) is typing.Union
    else (hint,)
  )
  for option in options:
    origin = typing.get_origin(option) or option
    if origin is tuple and isinstance(value, (list, tuple)):
      element, *rest = typing.get_args(option)
      fixed = rest and rest[0] is not Ellipsis
      if fixed and len(value) != 1 + len(rest):
        continue
      return tuple(_fitted(key, v, element) for v in value)
    if origin is float and type(value) in (int, float):
      return float(value)
    if origin is int and type(value) is float and value.is_integer():
      return int(value)
    if origin is Any or (
      isinstance(origin, type) and type(value) in (origin, *_as(origin))
    ):
      return value
  names = ' or '.join(getattr(o, '__name__', str(o)) for o in options)
  raise UserError(f'{key}={value!r} must be {names}.')


def _as(origin: type) -> tuple[type, ...]:
  return (dict,) if origin in (dict, Mapping) else ()


def _plain(section) -> dict[str, Any]:
  """A ConfigDict, FrozenConfigDict or mapping as a plain dict."""
  section = getattr(section, 'to_dict', lambda: section)()
  return dict(section)


def _pick(key: str, name: Any, table: Mapping[str, Any]) -> Any:
  if name not in table:
    near = difflib.get_close_matches(str(name), table, 1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise UserError(
      f'{key}={name!r} is unknown.{hint} Allowed: {", ".join(table)}.'
    )
  return table[name]


def _positive(top: TopLevel, names):
  for name in names:
    if getattr(top, name) < 1:
      raise UserError(f'{name}={getattr(top, name)} must be at least 1.')


def _key(section: str, key: str) -> str:
  return f'{section}.{key}' if section else key
