"""Whether the weights of a workdir are those that a config describes."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ldm_jax import build, sections
from ldm_jax.data import tokenize
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


def check(
  folder: str,
  config: Mapping[str, Any],
  message: str,
  names: Sequence[str] = workdir.MODEL_SECTIONS,
) -> None:
  """Raises UserError(message), with the keys of `names` that differ.

  A key that a section lacks has its default, and a vocabulary is what stands in
  it, not where it lies.

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
