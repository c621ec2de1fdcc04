"""Reading the release's YAML: plain data, and errors that say where.

Class paths in it are looked up in tables; nothing is ever imported by name.
"""

import dataclasses
import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from ldm_jax.types import UserError

_LARGEST = 2**20  # Bytes; released files have a few thousand.


class _Loader(yaml.SafeLoader):
  """With YAML 1.2's floats: 1e-6 is a number, as OmegaConf reads it."""


_Loader.add_implicit_resolver(
  'tag:yaml.org,2002:float',
  re.compile(r'^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$'),
  list('-+.0123456789'),
)


def load(path: str) -> dict:
  """The file's mapping.

  Raises:
    UserError: no such file, too large, or not a YAML mapping.
  """
  try:
    with open(path, 'rb') as f:
      text = f.read(_LARGEST + 1)
  except OSError as error:
    raise UserError(f'{path}: {error.strerror}.') from error
  if len(text) > _LARGEST:
    raise UserError(f'{path} is over {_LARGEST:,} bytes: no config.')
  try:
    content = yaml.load(text, _Loader)
  except (yaml.YAMLError, ValueError, RecursionError) as error:
    line = ' '.join(str(error).split())
    raise UserError(f'{path} is not valid YAML: {line}.') from error
  if not isinstance(content, dict):
    raise UserError(f'{path} is no mapping; a config begins with "model:".')
  return content


@dataclasses.dataclass(frozen=True)
class Section:
  """A mapping of the file, and where it stands; every error names both.

  `notes` is shared by all sections of a file: what was left out, in words.
  """

  values: Mapping[str, Any]
  path: str
  where: str = ''
  notes: list[str] = dataclasses.field(default_factory=list)

  def place(self, key: str) -> str:
    return f'{self.where}.{key}' if self.where else key

  def section(self, key: str, optional: bool = False) -> 'Section':
    value = self.values.get(key)
    if value is None and optional:
      value = {}
    if not isinstance(value, Mapping):
      raise self.wrong(key, 'a mapping')
    return Section(value, self.path, self.place(key), self.notes)

  def name(self) -> str:
    """The last word of `target`; '' where there is none."""
    target = self.values.get('target')
    return target.rpartition('.')[2] if isinstance(target, str) else ''

  def target(self, allowed: Iterable[str]) -> str:
    """The class's name; the modules before it say nothing."""
    name = self.name()
    if name not in allowed:
      raise UserError(
        f'{self.path}: {self.place("target")}='
        f'{shown(self.values.get("target"))} is not known. Known there: '
        f'{", ".join(allowed)}.'
      )
    return name

  def check(
    self,
    known: Iterable[str],
    ignored: Iterable[str] = (),
    fixed: Mapping[str, Any] | None = None,
    strict: bool = True,
  ) -> 'Section':
    """Refuses keys that are unknown or have a value other than `fixed`.

    Not strict: unknown ones are noted, where the release ignores them too.
    """
    fixed = fixed or {}
    for key, value in self.values.items():
      if key in fixed and value != fixed[key]:
        raise UserError(
          f'{self.path}: {self.place(key)}={shown(value)} is not '
          f'supported; only {fixed[key]!r} is.'
        )
      if key in known or key in ignored or key in fixed:
        continue
      near = difflib.get_close_matches(str(key), list(known), 1, 0.6)
      hint = f' Did you mean {near[0]!r}?' if near else ''
      if strict:
        raise UserError(f'{self.path}: {self.place(key)} is not known.{hint}')
      self.notes.append(f'{self.place(key)} is ignored, as released.{hint}')
    return self

  def integer(self, key: str, default: int | None = None) -> int:
    """A whole number, 0 or more, or the release's -1 for "not set"."""
    value = self.values.get(key, default)
    if type(value) is not int or value < -1:
      raise self.wrong(key, 'a whole number')
    return value

  def number(self, key: str, default: float) -> float:
    value = self.values.get(key, default)
    if type(value) not in (int, float):
      raise self.wrong(key, 'a number')
    return float(value)

  def integers(self, key: str, default=None) -> tuple[int, ...]:
    value = self.values.get(key, default)
    if (
      not isinstance(value, Sequence)
      or isinstance(value, str)
      or any(type(v) is not int or v < 0 for v in value)
    ):
      raise self.wrong(key, 'a list of whole numbers')
    return tuple(value)

  def flag(self, key: str, default: bool) -> bool:
    value = self.values.get(key, default)
    if type(value) is not bool:
      raise self.wrong(key, 'true or false')
    return value

  def choice(self, key: str, allowed: Sequence[str], default: str) -> str:
    value = self.values.get(key, default)
    if value not in allowed:
      raise self.wrong(key, f'one of {", ".join(allowed)}')
    return value

  def wrong(self, key: str, wanted: str) -> UserError:
    return UserError(
      f'{self.path}: {self.place(key)}={shown(self.values.get(key))} must '
      f'be {wanted}.'
    )


def shown(value: Any) -> str:
  """In one short line: aliases can make a value of any size."""
  return reprlib.repr(value)
