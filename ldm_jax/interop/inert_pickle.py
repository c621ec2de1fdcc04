"""A pickle read as data: nothing in it is imported, called or built.

The names that it mentions must be in a table. What the table says about a name
is our own function, which makes a plain value, or that whatever is made of it
is to be opaque: an empty stand-in that remembers only its name.
"""

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from ldm_jax.interop.mapped import Damaged

LARGEST = 32 * 2**20  # Bytes of a pickle; that of a 6 GB file has about 2 MB.
_MOST_OPCODES = 1_000_000
_LONGEST_NAME = 256


class Name:
  """A class or function that a pickle mentions: its name and nothing else."""

  __slots__ = ('name',)

  def __init__(self, name: str):
    self.name = name


class Opaque:
  """An object that the pickle wants and that nobody here needs."""

  __slots__ = ('name',)

  def __init__(self, name: str):
    self.name = name


class Interpreter:
  """Runs pickles over a table of names.

  Attributes:
    calls: 'module.name' -> our function of the arguments, called where the
      pickle calls that name. Functions raise Damaged for bad arguments.
    inert: prefixes of names whose objects become opaque.
    persistent: our function of a persistent id.
  """

  def __init__(
    self,
    calls: Mapping[str, Callable],
    inert: tuple[str, ...],
    persistent: Callable[[Any], Any],
  ):
    self._calls = calls
    self._inert = inert
    self._persistent = persistent
    self._opcodes = 0

  def load(self, stream: io.BytesIO) -> Any:
    """The value of the pickle at the stream's position, which moves behind it.

    Raises:
      Damaged: it is cut off or makes no sense; or it asks for a name that is
        not in the table, which is then refused, unexecuted.
    """
    self._stack: list = []
    self._marks: list[list] = []
    self._memo: dict[int, Any] = {}
    try:
      for opcode, argument, _ in pickletools.genops(stream):
        self._opcodes += 1
        if self._opcodes > _MOST_OPCODES:
          raise Damaged(f'a pickle of more than {_MOST_OPCODES:,} steps')
        if opcode.name == 'STOP':
          return self._stack.pop()
        self._step(opcode.name, argument)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError,
            AttributeError, UnicodeError) as error:  # fmt: skip
      raise Damaged('its pickle is damaged or cut off') from error
    raise Damaged('its pickle is cut off')

  def _step(self, name: str, argument: Any):
    if name in _CONSTANTS:
      self._stack.append(argument)
    elif name in _PLAIN:
      _PLAIN[name](self)
    elif name in _WITH_ARGUMENT:
      _WITH_ARGUMENT[name](self, argument)
    elif name not in ('PROTO', 'FRAME'):
      raise Damaged(f'its pickle uses {name}, which no tensor file needs')

  # The stack. A mark sets the stack so far aside.

  def _mark(self):
    self._marks.append(self._stack)
    self._stack = []

  def _since_mark(self) -> list:
    items, self._stack = self._stack, self._marks.pop()
    return items

  def _pop(self):
    if self._stack:
      self._stack.pop()
    else:
      self._since_mark()

  def _gather(self, make: Callable, count: int | None = None):
    """Replaces the top `count` values, or those since the mark, by make()."""
    if count is None:
      items = self._since_mark()
    elif len(self._stack) < count:
      raise IndexError('stack')
    else:
      items = self._stack[len(self._stack) - count :]
      del self._stack[len(self._stack) - count :]
    self._stack.append(make(items))

  def _extend(self, items: list):
    top = self._stack[-1]
    if isinstance(top, list):
      top.extend(items)
    elif not isinstance(top, Opaque):
      raise TypeError('append')

  def _set_items(self, items: list):
    top = self._stack[-1]
    if len(items) % 2:
      raise ValueError('odd')
    if isinstance(top, dict):
      top.update(_pairs(items))
    elif not isinstance(top, Opaque):
      raise TypeError('setitem')

  def _add_items(self):
    items = self._since_mark()
    top = self._stack[-1]
    if isinstance(top, set):
      top.update(map(_key, items))
    elif not isinstance(top, Opaque):
      raise TypeError('additems')

  def _put(self, at: int | None = None):
    self._memo[len(self._memo) if at is None else at] = self._stack[-1]

  # Names, and what is made of them.

  def _global(self, name: str):
    if name not in self._calls and not name.startswith(self._inert):
      raise Damaged(
        f'its pickle asks for {name[:_LONGEST_NAME]!r}, which is no part of '
        'a file of tensors; nothing was executed'
      )
    self._stack.append(Name(name))

  def _stack_global(self):
    module, name = self._stack[-2:]
    if type(module) is not str or type(name) is not str:
      raise TypeError('global')
    del self._stack[-2:]
    self._global(f'{module}.{name}')

  def _call(self, what: Any, arguments: Any):
    if not isinstance(what, Name) or not isinstance(arguments, tuple):
      raise TypeError('call')
    function = self._calls.get(what.name)
    made = Opaque(what.name) if function is None else function(*arguments)
    self._stack.append(made)

  def _reduce(self):
    arguments = self._stack.pop()
    self._call(self._stack.pop(), arguments)

  def _new_with_keywords(self):
    self._stack.pop()
    self._reduce()

  def _instance(self, name: str):
    arguments = tuple(self._since_mark())
    self._global(name)
    self._call(self._stack.pop(), arguments)

  def _object(self):
    what, *arguments = self._since_mark()
    self._call(what, tuple(arguments))

  def _build(self):
    # A state is never applied: nothing here is an object that has one.
    self._stack.pop()
    if isinstance(self._stack[-1], Name):
      raise TypeError('build')


def _key(key: Any) -> Any:
  """Hashing must neither recurse nor call: only simple keys are let in."""
  if isinstance(key, tuple):
    if len(key) > 8 or any(isinstance(k, tuple) for k in key):
      raise TypeError('key')
    return tuple(map(_key, key))
  if type(key) not in (str, bytes, int, float, bool, type(None), Name, Opaque):
    raise TypeError('key')
  if type(key) is int and abs(key) >= 2**53:  # Chosen to collide.
    raise ValueError('key')
  return key


def _pairs(items: list):
  return zip(map(_key, items[::2]), items[1::2], strict=True)


def _dict(items: list) -> dict:
  if len(items) % 2:
    raise ValueError('odd')
  return dict(_pairs(items))


_CONSTANTS = frozenset((
    'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT',
    'BINFLOAT', 'STRING', 'BINSTRING', 'SHORT_BINSTRING', 'UNICODE',
    'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINBYTES', 'BINBYTES8',
    'SHORT_BINBYTES', 'BYTEARRAY8',
))  # fmt: skip

_PLAIN: dict[str, Callable[[Interpreter], None]] = {
  'NONE': lambda s: s._stack.append(None),
  'NEWTRUE': lambda s: s._stack.append(True),
  'NEWFALSE': lambda s: s._stack.append(False),
  'EMPTY_LIST': lambda s: s._stack.append([]),
  'EMPTY_TUPLE': lambda s: s._stack.append(()),
  'EMPTY_DICT': lambda s: s._stack.append({}),
  'EMPTY_SET': lambda s: s._stack.append(set()),
  'MARK': lambda s: s._mark(),
  'POP': lambda s: s._pop(),
  'POP_MARK': lambda s: s._since_mark(),
  'DUP': lambda s: s._stack.append(s._stack[-1]),
  'LIST': lambda s: s._gather(list),
  'TUPLE': lambda s: s._gather(tuple),
  'TUPLE1': lambda s: s._gather(tuple, 1),
  'TUPLE2': lambda s: s._gather(tuple, 2),
  'TUPLE3': lambda s: s._gather(tuple, 3),
  'DICT': lambda s: s._gather(_dict),
  'FROZENSET': lambda s: s._gather(lambda items: set(map(_key, items))),
  'APPEND': lambda s: s._extend([s._stack.pop()]),
  'APPENDS': lambda s: s._extend(s._since_mark()),
  'SETITEM': lambda s: s._set_items([*_last_two(s._stack)]),
  'SETITEMS': lambda s: s._set_items(s._since_mark()),
  'ADDITEMS': lambda s: s._add_items(),
  'MEMOIZE': lambda s: s._put(),
  'STACK_GLOBAL': lambda s: s._stack_global(),
  'REDUCE': lambda s: s._reduce(),
  'NEWOBJ': lambda s: s._reduce(),
  'NEWOBJ_EX': lambda s: s._new_with_keywords(),
  'OBJ': lambda s: s._object(),
  'BUILD': lambda s: s._build(),
  'BINPERSID': lambda s: s._stack.append(s._persistent(s._stack.pop())),
}

_WITH_ARGUMENT: dict[str, Callable[[Interpreter, Any], None]] = {
  **dict.fromkeys(('PUT', 'BINPUT', 'LONG_BINPUT'), Interpreter._put),
  **dict.fromkeys(
    ('GET', 'BINGET', 'LONG_BINGET'),
    lambda s, at: s._stack.append(s._memo[at]),
  ),
  'GLOBAL': lambda s, name: s._global(name.replace(' ', '.', 1)),
  'INST': lambda s, name: s._instance(name.replace(' ', '.', 1)),
}


def _last_two(stack: list) -> list:
  if len(stack) < 2:
    raise IndexError('stack')
  two = stack[-2:]
  del stack[-2:]
  return two
