"""One table says what a tensor is called, and how it lies, here and there.

A `Row` is one tensor; a list of them describes a foreign file completely, and
is read in both directions, so that import and export cannot disagree.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from ldm_jax.types import UserError

# Layout -> (theirs to ours, ours to theirs). Transposes only: exact both ways.
LAYOUTS: dict[str, tuple[Callable, Callable]] = {
  'same': (lambda x: x, lambda x: x),
  # Convolutions: [out in h w] -> [h w in out].
  'conv': (
    lambda x: x.transpose(2, 3, 1, 0),
    lambda x: x.transpose(3, 2, 0, 1),
  ),
  # Matrices: [out in] -> [in out].
  'dense': (lambda x: x.T, lambda x: x.T),
  # Matrices written as convolutions of size 1: [out in 1] -> [in out].
  'dense_1d': (lambda x: x[..., 0].T, lambda x: x.T[..., None]),
  # Convolutions of size 1 written as matrices: [out in] -> [1 1 in out].
  'pointwise': (lambda x: x.T[None, None], lambda x: x[0, 0].T),
}


@dataclasses.dataclass(frozen=True)
class Row:
  """One tensor: its path here, its name, shape and layout there."""

  ours: str  # 'model/unet/conv_in/kernel': the item, then the tree's keys.
  theirs: str
  shape: tuple[int, ...]
  layout: str = 'same'

  def to_ours(self, x: np.ndarray) -> np.ndarray:
    return LAYOUTS[self.layout][0](x)

  def to_theirs(self, x: np.ndarray) -> np.ndarray:
    return LAYOUTS[self.layout][1](x)

  @property
  def our_shape(self) -> tuple[int, ...]:
    # A view of one element: shapes of gigabytes cost nothing.
    return self.to_ours(np.broadcast_to(np.int8(0), self.shape)).shape


# --- Rows of common modules. ---


def conv(
  ours: str, theirs: str, ci: int, co: int, k: int = 3, bias: bool = True
) -> list[Row]:
  """A convolution with its bias."""
  rows = [Row(f'{ours}/kernel', f'{theirs}.weight', (co, ci, k, k), 'conv')]
  return rows + _bias(ours, theirs, co, bias)


def dense(
  ours: str,
  theirs: str,
  ci: int,
  co: int,
  bias: bool = True,
  layout: str = 'dense',
) -> list[Row]:
  """A matrix with its bias; layout 'dense' or 'dense_1d'."""
  shape = (co, ci) if layout == 'dense' else (co, ci, 1)
  rows = [Row(f'{ours}/kernel', f'{theirs}.weight', shape, layout)]
  return rows + _bias(ours, theirs, co, bias)


def _bias(ours, theirs, width, bias) -> list[Row]:
  return [Row(f'{ours}/bias', f'{theirs}.bias', (width,))] if bias else []


def norm(ours: str, theirs: str, width: int) -> list[Row]:
  """A group or layer normalisation."""
  return [
    Row(f'{ours}/scale', f'{theirs}.weight', (width,)),
    Row(f'{ours}/bias', f'{theirs}.bias', (width,)),
  ]


def embedding(ours: str, theirs: str, rows: int, width: int) -> list[Row]:
  """A table of vectors."""
  return [Row(f'{ours}/embedding', f'{theirs}.weight', (rows, width))]


# --- Reading and writing with a table. ---


@dataclasses.dataclass(frozen=True)
class Mismatch:
  """How a file differs from a table, in the file's names."""

  missing: list[str]
  unexpected: list[str]
  misshapen: list[str]
  not_finite: list[str]

  def __bool__(self) -> bool:
    return any(dataclasses.astuple(self))

  def __str__(self) -> str:
    """All names, by kind."""
    kinds = dataclasses.asdict(self).items()
    return '; '.join(
      f'{len(names)} {kind.replace("_", " ")}: {", ".join(names)}'
      for kind, names in kinds
      if names
    )


def compare(rows: Iterable[Row], tensors: Mapping[str, np.ndarray]) -> Mismatch:
  """What is missing, unexpected, misshapen or not finite in `tensors`."""
  rows = list(rows)
  known = {row.theirs for row in rows}
  present = [row for row in rows if row.theirs in tensors]
  misshapen = [
    f'{row.theirs} {_text(tensors[row.theirs].shape)} '
    f'instead of {_text(row.shape)}'
    for row in present
    if tensors[row.theirs].shape != row.shape
  ]
  return Mismatch(
    missing=[row.theirs for row in rows if row.theirs not in tensors],
    unexpected=[name for name in tensors if name not in known],
    misshapen=misshapen,
    not_finite=[r.theirs for r in present if not is_finite(tensors[r.theirs])],
  )


def _text(shape: tuple[int, ...]) -> str:
  return '[' + ' '.join(map(str, shape)) + ']'


def is_finite(x: np.ndarray) -> bool:
  """Whether no element is NaN or infinite; walks large arrays in parts."""
  if not x.size or x.dtype.kind in 'biu':
    return True
  if not any(x.strides):  # One element, repeated: how tests stand for shapes.
    return bool(np.isfinite(np.float64(x.flat[0])))
  parts = x if x.ndim > 1 and x.size > 2**22 else [x]
  return all(bool(np.isfinite(np.asarray(p, np.float32)).all()) for p in parts)


def to_ours(rows: Iterable[Row], tensors: Mapping[str, np.ndarray]) -> dict:
  """Float32 trees {item: {...}} of the rows whose tensors are there."""
  trees: dict = {}
  for row in rows:
    if row.theirs not in tensors:
      continue
    *path, leaf = row.ours.split('/')
    tree = trees
    for key in path:
      tree = tree.setdefault(key, {})
    tree[leaf] = row.to_ours(as_float32(tensors[row.theirs]))
  return trees


def as_float32(x: np.ndarray) -> np.ndarray:
  # A zero-stride stand-in stays one: np.asarray would allocate it.
  if x.dtype == np.float32:
    return x
  if x.size and not any(x.strides):
    return np.broadcast_to(np.float32(x.flat[0]), x.shape)
  return np.asarray(x, np.float32)


def to_theirs(rows: Iterable[Row], trees: Mapping) -> dict[str, np.ndarray]:
  """The tensors of all rows, under their names and in their layout.

  Raises:
    UserError: parameters that the table asks for are not there.
  """
  tensors, missing = {}, []
  for row in rows:
    leaf = trees
    for key in row.ours.split('/'):
      leaf = leaf.get(key) if isinstance(leaf, Mapping) else None
    if leaf is None or tuple(leaf.shape) != row.our_shape:
      missing.append(row.ours)
    else:
      tensors[row.theirs] = row.to_theirs(leaf)
  if missing:
    raise UserError(
      f'The workdir lacks {len(missing)} parameters of that shape: '
      f'{", ".join(missing)}.'
    )
  return tensors


def fitting(
  rows: Iterable[Row], tensors: Mapping[str, np.ndarray], mismatch: Mismatch
) -> dict[str, np.ndarray]:
  """The tensors that have the place, the shape and the numbers to load."""
  shapes = {row.theirs: row.shape for row in rows}
  return {
    name: x
    for name, x in tensors.items()
    if shapes.get(name) == x.shape and name not in mismatch.not_finite
  }


def share(
  rows: Iterable[Row], tensors: Mapping[str, np.ndarray], mismatch: Mismatch
) -> str:
  """A sentence on what a lenient import loads."""
  sizes = {row.theirs: int(np.prod(row.shape)) for row in rows}
  loaded = sum(sizes[name] for name in fitting(rows, tensors, mismatch))
  rounded = math.floor(1e4 * loaded / sum(sizes.values())) / 1e4
  return f'{rounded:.2%} of the parameters were loaded; the rest: {mismatch}.'


def overlay(base: Mapping, over: Mapping) -> dict:
  """`base` with the leaves of `over` in their places."""
  return {
    key: overlay(value, over.get(key, {}))
    if isinstance(value, Mapping)
    else over.get(key, value)
    for key, value in base.items()
  }


def nest(tensors: Mapping[str, np.ndarray]) -> dict:
  """Names become paths: a checkpoint's keys have no dots."""
  tree: dict = {}
  for name, x in tensors.items():
    *path, leaf = name.split('.')
    node = tree
    for key in path:
      node = node.setdefault(key, {})
    node[leaf] = x
  return tree


def flatten(tree: Mapping, prefix: str = '') -> dict[str, np.ndarray]:
  """The inverse of `nest`."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = np.asarray(value)
  return flat
