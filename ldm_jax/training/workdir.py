"""The resolved config of a run, beside its checkpoints."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from ldm_jax.types import UserError

# The sections of a config that decide which weights there are.
MODEL_SECTIONS = ('stage', 'first_stage', 'task', 'unet', 'classifier')


def write_config(workdir: epath.PathLike, config: Mapping[str, Any]) -> None:
  """Writes config.json in one piece, on process 0."""
  if jax.process_index() != 0:
    return
  path = epath.Path(workdir) / 'config.json'
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name('config.json.partial')
  partial.write_text(json.dumps(config, indent=2) + '\n')
  partial.replace(path)


def read_config(workdir: epath.PathLike) -> dict[str, Any]:
  """The resolved config of a run; sequences come back as tuples.

  A `task.vocab_file` that lies in the workdir, as an import leaves it, comes
  back with its whole path: the folder may have moved since.
  """
  path = epath.Path(workdir) / 'config.json'
  try:
    config = _tuples(json.loads(path.read_text()))
    task = config.get('task', {})
    kept = path.parent / (task.get('vocab_file') or 'nothing')
    if task.get('vocab_file') and kept.exists():
      task['vocab_file'] = str(kept)
    return config
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(
      f'{path} does not exist. Is {workdir} the workdir of a run?'
    ) from error
  except ValueError as error:
    raise UserError(f'{path} is not valid JSON: {error}') from error


def check_same_model(
  workdir: epath.PathLike,
  config: Mapping[str, Any],
  sections: Sequence[str] = MODEL_SECTIONS,
) -> None:
  """Raises UserError, naming every key of `sections` that differs.

  A workdir without a config.json agrees with everything.
  """
  if not (epath.Path(workdir) / 'config.json').exists():
    return
  there = read_config(workdir)
  here = _tuples(json.loads(json.dumps(config)))
  old, new = (
    dict(_flat({key: c[key] for key in sections if key in c}))
    for c in (there, here)
  )
  missing = object()
  lines = [
    f'  {key}: {_shown(old, key)} there, {_shown(new, key)} here'
    for key in sorted(old.keys() | new.keys())
    if old.get(key, missing) != new.get(key, missing)
  ]
  if lines:
    raise UserError(
      '\n'.join(
        [
          f'{workdir} holds another model. Use a new workdir, or the config '
          'of this one. What differs:',
          *lines,
        ]
      )
    )


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
