"""The resolved config of a run, beside its checkpoints."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from ldm_jax import whole
from ldm_jax.types import UserError

# The sections of a config that decide which weights there are.
MODEL_SECTIONS = ('stage', 'first_stage', 'task', 'unet', 'classifier')
# Keys of theirs that neither shape weights nor say what they mean: how they
# are computed and trained, and where a file lies.
FREE = {
  'attention_backend', 'degradation', 'dropout', 'masks', 'null_label', 'remat',
  'vocab_file',
}  # fmt: skip
# What a run writes over, or takes for its own, once it has begun.
_WRITTEN = ('checkpoints', 'metrics.jsonl', 'quarantine.jsonl', 'samples')


def write_config(workdir: epath.PathLike, config: Mapping[str, Any]) -> None:
  """Writes config.json in one piece, on process 0."""
  if jax.process_index() != 0:
    return
  path = epath.Path(workdir) / 'config.json'
  path.parent.mkdir(parents=True, exist_ok=True)
  with whole.written(path) as place:
    place.write_text(json.dumps(config, indent=2) + '\n')


def read_config(workdir: epath.PathLike) -> dict[str, Any]:
  """The resolved config of a run; sequences come back as tuples.

  A `task.vocab_file` that lies in the workdir, as an import leaves it, comes
  back with its whole path: the folder may have moved since.
  """
  path = epath.Path(workdir) / 'config.json'
  try:
    config = _tuples(json.loads(path.read_text()))
    if not isinstance(config, dict):
      raise UserError(f'{path} holds no config: it must be one JSON object.')
    task = config.get('task', {})
    kept = path.parent / (task.get('vocab_file') or 'nothing')
    if task.get('vocab_file') and kept.exists():
      task['vocab_file'] = str(kept)
    return config
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(
      f'{path} does not exist. Is {workdir} the workdir of a run?'
    ) from error
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise UserError(f'{path} is not valid JSON: {error}') from error


def has_config(workdir: epath.PathLike) -> bool:
  """Whether the folder is the workdir of a run that has begun."""
  return (epath.Path(workdir) / 'config.json').exists()


def check_usable(workdir: epath.PathLike) -> None:
  """Raises UserError where a run could not write, or would over another's.

  A folder is a run's if it holds a config.json; any other may hold what it
  likes, but nothing by a name that a run would write.
  """
  if '://' in str(workdir):
    raise UserError(
      f'--workdir={workdir} is no folder of a file system, as a run needs. '
      'Mount the bucket (for gs://, gcsfuse) and name the folder there.'
    )
  path = epath.Path(workdir)
  if path.exists() and not path.is_dir():
    raise UserError(f'--workdir={workdir} is a file; name a folder.')
  above = path.absolute()
  while not above.exists():
    above = above.parent
  if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
    raise UserError(
      f'--workdir={workdir} cannot be written: {above} is no folder, or not '
      'yours to write in.'
    )
  if has_config(path) or not path.exists():
    return
  names = sorted(entry.name for entry in path.iterdir())
  if there := [n for n in names if n in _WRITTEN or n.startswith('log.txt.')]:
    raise UserError(
      f'--workdir={workdir} holds {there[0]!r} and no config.json, so it is no '
      'workdir of a run, and nothing there is overwritten. Choose another '
      'folder.'
    )


def compare(
  there: Mapping[str, Any],
  here: Mapping[str, Any],
  message: str,
  sections: Sequence[str] = MODEL_SECTIONS,
) -> None:
  """Raises UserError(message) with every key of `sections` that differs.

  Keys that leave the weights and their meaning as they are may differ.
  """
  old, new = (
    {
      key: value
      for key, value in _flat({k: c[k] for k in sections if k in c})
      if value is not None and key.rpartition('.')[2] not in FREE
    }
    for c in (there, here)
  )
  lines = [
    f'  {key}: {_shown(old, key)} there, {_shown(new, key)} here'
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key)
  ]
  if lines:
    raise UserError('\n'.join([f'{message} What differs:', *lines]))


def _flat(config: Any, prefix: str = '') -> Iterable[tuple[str, Any]]:
  for key, value in config.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _tuples(item) for key, item in value.items()}
  if isinstance(value, list):
    return tuple(_tuples(item) for item in value)
  return value


def _shown(table: Mapping[str, Any], key: str) -> str:
  return repr(table[key]) if key in table else 'nothing'
