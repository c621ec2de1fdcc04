"""Whether the weights of a workdir are those that a config describes."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from ldm_jax import build, sections
from ldm_jax.data import tokenize
from ldm_jax.diffusion import schedule as schedules
from ldm_jax.diffusion.loss import LossSpec
from ldm_jax.models.classifier import NoisyClassifier
from ldm_jax.models.unet import UNet
from ldm_jax.tasks import TASKS
from ldm_jax.training import checkpoint, workdir
from ldm_jax.types import UserError


def check_workdir(folder: str, config: Mapping[str, Any]) -> None:
  """Raises UserError where a run could not be written, or gone on with."""
  workdir.check_usable(folder)
  if workdir.has_config(folder):
    check(
      folder,
      config,
      f'{folder} holds another model. Use a new workdir, or the config of '
      'this one.',
    )
    _check_goes_on(folder, config)


def _check_goes_on(folder: str, config: Mapping[str, Any]) -> None:
  """Raises UserError where the weights would be taken for something else."""
  there = checkpoint.read_config(folder)
  differ = other_targets(there, config)
  factor = config.get('scale_factor')
  if factor and factor != there.get('scale_factor'):
    measured = there.get('scale_factor') or 'measured'
    differ.append(f'scale_factor={measured} there and {factor} here')
  if differ:
    raise UserError(
      f'{folder} was trained with {"; ".join(differ)}: its weights would be '
      'taken for something else. Give it the settings that it was trained '
      'with, or start from its weights in a new workdir (--config.init_from).'
    )


def check_start(folder: str, config: Mapping[str, Any]) -> None:
  """Raises UserError unless a new run can start from the folder's weights.

  Shapes do not tell whether it can: a number of heads, say, is in none. The
  first stage may be another where the config takes it from elsewhere.
  """
  names = workdir.MODEL_SECTIONS
  if config['stage'] == 'first_stage':
    names = ('first_stage',)  # That of a diffusion run will do.
  elif config.get('first_stage_from'):
    names = [name for name in names if name != 'first_stage']
  check(
    folder,
    config,
    f'init_from={folder} holds another model than this config names: its '
    'weights would mean something else here. Give the workdir of one like it, '
    "or make this config's sections that one's.",
    names,
    networks_alone=True,
  )


def warn_of_another_target(folder: str, config: Mapping[str, Any]) -> None:
  """Warns where a run learned of other noise levels, or to predict another."""
  for differs in other_targets(checkpoint.read_config(folder), config):
    logging.warning(
      'init_from=%s was trained with %s: its network has to learn anew what '
      'noise levels it is shown, or what it predicts.',
      folder,
      differs,
    )


def other_targets(
  there: Mapping[str, Any], here: Mapping[str, Any]
) -> list[str]:
  """Where two configs show their networks other noise, or ask another answer.

  'loss.prediction=v there and eps here', and the same of the schedule; nothing
  of first stages.
  """
  found = []
  if here.get('stage', 'diffusion') == 'diffusion':
    asked = [
      sections.construct('loss', LossSpec, c.get('loss', {})).prediction
      for c in (there, here)
    ]
    if asked[0] != asked[1]:
      found.append(f'loss.prediction={asked[0]} there and {asked[1]} here')
  if here.get('stage') != 'first_stage':
    told = [c.get('schedule') or {} for c in (there, here)]
    shown = [
      sections.call('schedule', schedules.make, one).alpha_bar for one in told
    ]
    if not np.array_equal(*shown):
      names = [dict(one) or 'the default' for one in told]
      found.append(f'schedule={names[0]} there and {names[1]} here')
  return found


def check(
  folder: str,
  config: Mapping[str, Any],
  message: str,
  names: Sequence[str] = workdir.MODEL_SECTIONS,
  networks_alone: bool = False,
) -> None:
  """Raises UserError(message), with the keys of `names` that differ.

  A key that a section lacks has its default, and a vocabulary is what stands in
  it, not where it lies. With `networks_alone`, data may be made ready for a
  task in another way: of its keys the conditioner's count, and the vocabulary.

  Raises:
    UserError: they differ, or the folder is not the workdir of a run.
  """
  there = checkpoint.read_config(folder)
  if not isinstance(there.get('first_stage'), Mapping):
    raise UserError(
      f'{os.path.join(folder, "config.json")} was not written by a run: it '
      'says nothing of a first stage.'
    )
  both = [resolved(c) for c in (there, json.loads(json.dumps(config)))]
  digests = [_vocabulary(c.get('task', {})) for c in both]
  if all(digests):
    for c, digest in zip(both, digests):
      c['task'] = {**c['task'], 'vocabulary': digest}
  if networks_alone:
    both = [{**c, 'task': _of_network(c.get('task', {}))} for c in both]
  workdir.compare(*both, message, names)


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
  """The sections that decide the weights, with the defaults that they leave."""
  found = {}
  for name in workdir.MODEL_SECTIONS:
    values = config.get(name)
    if isinstance(values, Mapping) and values:
      given = {k: _tuple(v) for k, v in values.items() if v is not None}
      found[name] = _defaults(name, given.get('name')) | given
    elif values:
      found[name] = values
  return found


def _of_network(task: Mapping[str, Any]) -> dict[str, Any]:
  """The keys of a task that its conditioner takes, or that words become."""
  known = {'name', 'vocabulary'}
  if task.get('name') in TASKS:
    known |= {*sections.fields_of(TASKS[task['name']].conditioner)}
  return {k: v for k, v in task.items() if k in known}


def _defaults(section: str, kind: Any) -> dict[str, Any]:
  kinds = {
    'first_stage': (build.FIRST_STAGES.get(kind),),
    'task': TASKS.get(kind, ()),
    'unet': (UNet,),
    'classifier': (NoisyClassifier,),
  }[section]
  return {
    name: field.default
    for kind in filter(None, kinds)
    for name, field in sections.fields_of(kind).items()
    if name != 'dtype' and field.default is not dataclasses.MISSING
  }


def _tuple(value: Any) -> Any:
  return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _vocabulary(task: Mapping[str, Any]) -> str:
  """Digest of a tokenizer's files; '' where there are none to be read."""
  try:
    files = tokenize.files_of(task)
  except UserError:
    return ''
  if not files:
    return ''
  found = hashlib.blake2b(digest_size=8)
  for name in sorted(files):
    found.update(files[name])
  return found.hexdigest()
