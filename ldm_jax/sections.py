"""Sections of a config: their keys are the field names of what they build.

So a misspelt key, or a value of the wrong type, is found before anything is
compiled, and answered with its section and the nearest valid name.
"""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from ldm_jax.types import UserError

# What the type does not say, by the name of the key in any section: sizes of
# which nothing could be built, and shares.
_SIZES = {
  'channels', 'depth', 'embed_dim', 'head_width', 'in_channels', 'length',
  'multipliers', 'norm_groups', 'num', 'num_classes', 'num_codes', 'num_heads',
  'num_res_blocks', 'out_channels', 'scale_batches', 'transformer_depth',
  'vocab_size', 'width', 'z_channels',
}  # fmt: skip
_BELOW_ONE = {'dropout', 'ema_decay'}
_SHARES = {'null_prob'}
_PIXELS = {'hole'}
_NOT_NEGATIVE = {
  'elbo_weight', 'eta', 'min_snr_gamma', 'scale_factor', 'seed',
  'simple_weight',
}  # fmt: skip


def construct(
  section: str, kind: type, values: Mapping[str, Any], **extra
) -> Any:
  """kind(**values, **extra); keys and types are checked against its fields.

  Values that are None (an unset placeholder) leave the field its default.

  Raises:
    UserError: naming the key, its section, its value and what is allowed.
  """
  values = {k: v for k, v in plain(values).items() if v is not None}
  known = fields_of(kind)
  # A module's dtype is the run's, never a section's own.
  hidden = {'dtype', *extra} if issubclass(kind, nn.Module) else {*extra}
  check_keys(section, values, {k: v for k, v in known.items()
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
    raise UserError(
      f'{key_of(section, missing[0])} is missing from the config.'
    )
  hints = _hints(kind)
  values = {
    k: _fitted(key_of(section, k), v, hints[k]) for k, v in values.items()
  }
  for key, value in values.items():
    _check_range(section, key, value)
  return kind(**values, **extra)


def fields_of(kind: type) -> dict[str, dataclasses.Field]:
  """A dataclass's or Linen module's own fields, by name."""
  return {
    f.name: f
    for f in dataclasses.fields(kind)
    if f.init and f.name not in ('parent', 'name')
  }


def call(section: str, function: Callable, values: Mapping[str, Any]):
  """As `construct`, for a function whose arguments are the keys."""
  hints = _hints(function)
  values = {k: v for k, v in plain(values).items() if v is not None}
  check_keys(section, values, [k for k in hints if k != 'return'])
  return function(
    **{k: _fitted(key_of(section, k), v, hints[k]) for k, v in values.items()}
  )


@functools.cache
def _hints(kind) -> dict[str, Any]:
  return typing.get_type_hints(kind)


def check_keys(section: str, values, known):
  for key in values:
    if key not in known:
      near = difflib.get_close_matches(key, known, 1, 0.5)
      hint = f' Did you mean {key_of(section, near[0])!r}?' if near else ''
      raise UserError(
        f'{key_of(section, key)!r} is not a config key.{hint} '
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


def _check_range(section: str, key: str, value: Any):
  """Raises UserError for numbers that are right in type alone."""
  for holds, keys, words in (
    (lambda x: x >= 1, _SIZES, '1 or more'),
    (lambda x: 0 <= x < 1, _BELOW_ONE, 'at least 0 and below 1'),
    (lambda x: 0 <= x <= 1, _SHARES, 'between 0 and 1'),
    (lambda x: -1 <= x <= 1, _PIXELS, 'between -1 and 1'),
    (lambda x: x >= 0, _NOT_NEGATIVE, '0 or more'),
  ):
    if key in keys:
      numbers = value if isinstance(value, tuple) else (value,)
      numbers = [x for x in numbers if type(x) in (int, float)]
      if not all(map(holds, numbers)):
        raise UserError(f'{key_of(section, key)}={value!r} must be {words}.')


def _as(origin: type) -> tuple[type, ...]:
  return (dict,) if origin in (dict, Mapping) else ()


def plain(section) -> dict[str, Any]:
  """A ConfigDict, FrozenConfigDict or mapping as a plain dict."""
  section = getattr(section, 'to_dict', lambda: section)()
  return dict(section)


def pick(key: str, name: Any, table: Mapping[str, Any]) -> Any:
  if name not in table:
    near = difflib.get_close_matches(str(name), table, 1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise UserError(
      f'{key}={name!r} is unknown.{hint} Allowed: {", ".join(table)}.'
    )
  return table[name]


def key_of(section: str, key: str) -> str:
  return f'{section}.{key}' if section else key
