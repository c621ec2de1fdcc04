"""The release's learning rate and its scheduler, as an `optim` section.

Training alone needs them, so nothing here is fatal: what cannot be told in our
keys is left out, and noted.
"""

from collections.abc import Callable
from typing import Any

from ldm_jax.interop.compvis_yaml import Section, shown
from ldm_jax.types import UserError

# Every released model whose rate main.py multiplied by the batch has one below
# this; those above it would have had 1e-3 and more (churches: 4.8e-3).
_OF_A_BATCH = 1e-5
# Our warm-up begins at 0; that of a scheduler may, up to this share, above it.
_NEAR_NOTHING = 0.05


def read(model: Section, params: Section) -> dict[str, Any]:
  """The sections `optim` and, where the rate falls, `num_steps`.

  Args:
    model: with the rate.
    params: the model's, with its scheduler.
  """
  rate = model.number('base_learning_rate', 1e-4)
  of_a_batch = rate >= _OF_A_BATCH
  if of_a_batch and 'base_learning_rate' in model.values:
    params.notes.append(
      f'{model.place("base_learning_rate")}={rate:g} is taken for that of a '
      'whole batch (optim.scale_lr=False). No YAML says whether main.py '
      'multiplied it by the batch, its default, or was told --scale_lr False; '
      'multiplied it would be far above every released one.'
    )
  optim = {'learning_rate': rate, 'scale_lr': not of_a_batch}
  scheduler = params.values.get('scheduler_config')
  if scheduler is None:
    return {'optim': optim}
  try:
    found = _scheduler(params.section('scheduler_config'))
  except UserError as error:
    params.notes.append(f'The scheduler of the rate is left out. {error}')
    return {'optim': optim}
  optim['learning_rate'] *= found.pop('times')
  steps = {k: found.pop(k) for k in ('num_steps',) if k in found}
  return {'optim': optim | found, **steps}


def _scheduler(section: Section) -> dict[str, Any]:
  """Keys of `optim`, and `times`: what the base rate is multiplied by."""
  target = section.target(SCHEDULERS)
  return SCHEDULERS[target](section.section('params'))


def _linear(values: Section) -> dict[str, Any]:
  """f_start to f_max, then to f_min: lists, an entry for each cycle."""
  of = {}
  for key in ('warm_up_steps', 'f_start', 'f_max', 'f_min'):
    of[key] = values.values.get(key)
    if not isinstance(of[key], list) or len(of[key]) != 1:
      raise values.wrong(key, 'a list of one: several cycles are not known')
  one = Section({k: v[0] for k, v in of.items()}, values.path, values.where)
  peak = _peak(one, 'f_max', 'f_start', values.notes)
  if (least := one.number('f_min', 1.0)) != peak:
    values.notes.append(
      f'{values.place("f_min")}={least:g}: the fall from f_max to it is left '
      'out, and the rate stays at f_max.'
    )
  return {'times': peak, 'warmup_steps': _steps(one, 'warm_up_steps')}


def _warm_up_cosine(values: Section) -> dict[str, Any]:
  """lr_start to lr_max, then a half cosine to lr_min at max_decay_steps."""
  peak = _peak(values, 'lr_max', 'lr_start', values.notes)
  least, end = values.number('lr_min', 0.0), _steps(values, 'max_decay_steps')
  warmup = _steps(values, 'warm_up_steps')
  if not 0 <= least <= peak:
    raise values.wrong('lr_min', f'between 0 and lr_max={peak:g}')
  if end <= warmup:
    raise values.wrong('max_decay_steps', f'above warm_up_steps={warmup}')
  values.notes.append(
    f'{values.place("max_decay_steps")}={end}: the rate falls until the end of '
    f'a run here, so num_steps is {end}. There it goes on at lr_min.'
  )
  return {
    'times': peak,
    'warmup_steps': warmup,
    'schedule': 'cosine',
    'final_fraction': least / peak,
    'num_steps': end,
  }


SCHEDULERS: dict[str, Callable[[Section], dict[str, Any]]] = {
  'LambdaLinearScheduler': _linear,
  'LambdaWarmUpCosineScheduler': _warm_up_cosine,
}


def _peak(values: Section, key: str, start: str, notes: list[str]) -> float:
  peak, first = values.number(key, 1.0), values.number(start, 0.0)
  if peak <= 0:
    raise values.wrong(key, 'above 0')
  if first > _NEAR_NOTHING * peak:
    notes.append(
      f'{values.place(start)}={shown(first)}: the warm-up begins near 0 here.'
    )
  return peak


def _steps(values: Section, key: str) -> int:
  if (steps := values.integer(key)) < 0:
    raise values.wrong(key, '0 or more')
  return steps
