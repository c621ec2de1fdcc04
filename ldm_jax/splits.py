"""Splits that a user names beside those of the config."""

import glob
import itertools
import os

from ldm_jax.data import sources
from ldm_jax.data.folder import SPLITS
from ldm_jax.data.spec import DataSpec
from ldm_jax.types import UserError

# Where no folder names a split these take any name, and give all that they
# have; the others refuse names of their own accord.
_LENIENT = ('coco', 'folder', 'masks', 'pairs')


def open_split(spec: DataSpec, name: str, option: str, other: str = ''):
  """The source of the split that a user named by `option`.

  Args:
    spec: of the run's data.
    name: what was named.
    option: '--inputs', ...
    other: what the option takes besides, in words.

  Raises:
    UserError: naming the option, where the data has no such split.
  """
  own = (spec.train_split, spec.eval_split)
  usual = itertools.chain(SPLITS, *SPLITS.values())
  lenient = spec.source in _LENIENT and not _annotated(spec, name)
  if name not in (*own, *usual) and (lenient or os.sep in name):
    raise UserError(
      f"{option}={name} is no split of the run's data, such as "
      f'{" and ".join(sorted({*own}))}{f", nor {other}" if other else ""}.'
    )
  return sources.open_source(spec, name)


def _annotated(spec: DataSpec, name: str) -> bool:
  """Whether COCO's annotations, whose splits have any name, have this one."""
  files = os.path.join(glob.escape(spec.path), '*', f'*{glob.escape(name)}*')
  return spec.source == 'coco' and bool(glob.glob(f'{files}.json'))
