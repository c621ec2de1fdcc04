"""One config.json of a foreign model, read key by key."""

from collections.abc import Mapping
from typing import Any

from ldm_jax.types import UserError

LARGEST = 2**20  # Of any size in a config; real ones have thousands.
_NO_EFFECT = (
    '_class_name', '_diffusers_version', '_name_or_path', '_commit_hash',
    'addition_embed_type_num_heads', 'force_upcast', 'num_train_timesteps',
    'upcast_attention', 'use_linear_projection',
)  # fmt: skip


class Component:
  """A component's config.json: its keys, each looked at once.

  `place` names it in messages. Methods raise UserError for a value that is
  missing, of another type, or absurd.
  """

  def __init__(self, values: Mapping[str, Any], place: str):
    if not isinstance(values, Mapping):
      raise UserError(f'{place} is no JSON object.')
    self.values, self.place = values, place
    self._seen = set(_NO_EFFECT)

  @property
  def class_name(self) -> str:
    return str(self.values.get('_class_name'))

  def get(self, key: str, default: Any = None) -> Any:
    self._seen.add(key)
    value = self.values.get(key)
    return default if value is None else value

  def integer(self, key: str, default: int | None = None) -> int:
    value = self.get(key, default)
    if type(value) is not int or not 1 <= value <= LARGEST:
      raise self.wrong(key, value, 'a positive integer')
    return value

  def number(self, key: str, default: float | None = None) -> float:
    value = self.get(key, default)
    if type(value) not in (int, float) or not 0 <= value < float('inf'):
      raise self.wrong(key, value, 'a number that is not negative')
    return float(value)

  def flag(self, key: str, default: bool) -> bool:
    value = self.get(key, default)
    if type(value) is not bool:
      raise self.wrong(key, value, 'true or false')
    return value

  def list_of(self, key: str, kind: type) -> list:
    value = self.get(key)
    if (
      not isinstance(value, list)
      or not 1 <= len(value) <= 16
      or any(type(v) is not kind for v in value)
    ):
      raise self.wrong(key, value, f'a list of {kind.__name__}')
    return value

  def one(self, key: str, default: int) -> int:
    """An integer, or a list that says it once for every level."""
    value = self.get(key, default)
    if isinstance(value, list) and value and all(v == value[0] for v in value):
      value = value[0]
    if type(value) is not int or not 1 <= value <= 64:
      raise self.wrong(key, value, 'one integer for all levels')
    return value

  def choice(self, key: str, table: Mapping[Any, Any], default: Any) -> Any:
    value = self.get(key, default)
    if not isinstance(value, str | int | bool) or value not in table:
      raise self.wrong(key, value, ', '.join(map(repr, table)))
    return table[value]

  def fixed(self, **allowed: Any) -> None:
    """Keys that, where they are set, have one supported value."""
    for key, value in allowed.items():
      if self.get(key, value) != value:
        raise self.wrong(key, self.values[key], repr(value))

  def finish(self) -> None:
    """Refuses what is set and was not looked at."""
    for key, value in self.values.items():
      if key not in self._seen and value not in (None, False, 'default', []):
        raise UserError(
          f'{self.place}: {key}={value!r} is not supported here, so the '
          'numbers would not be theirs.'
        )

  def wrong(self, key: str, value: Any, allowed: str) -> UserError:
    return UserError(f'{self.place}: {key}={value!r:.200}; needs {allowed}.')
