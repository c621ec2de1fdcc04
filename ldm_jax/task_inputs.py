"""What a user tells a run to draw from, checked against what its task takes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from ldm_jax.parts import Parts
from ldm_jax.types import UserError

ALIASES = {'prompt': 'text'}


def keys(parts: Parts) -> set[str]:
  """The inputs that the task takes."""
  blank = parts.prepare.blank(parts.data.size)
  return {*parts.prepare.needs, *blank}


def arrays(parts: Parts, given: Mapping[str, Any]) -> dict[str, Any]:
  """Inputs under their own names, strings as tokens; as many as were given."""
  given = {ALIASES.get(k, k): v for k, v in given.items()}
  return parts.prepare.arrays(given)


def rows(parts: Parts, num: int, given: Mapping[str, Any]) -> dict[str, Any]:
  """Inputs as numpy arrays of `num` rows.

  Raises:
    UserError: inputs that the task does not know or lacks, or another number.
  """
  known = keys(parts)
  unknown = [k for k in given if ALIASES.get(k, k) not in known]
  if unknown:
    raise UserError(
      f'{unknown[0]!r} is not an input of task '
      f'{parts.config.task["name"]!r}; it takes: '
      f'{", ".join(sorted(known)) or "none"}.'
    )
  blank = parts.prepare.blank(parts.data.size)
  found = {}
  for key, value in arrays(parts, given).items():
    value = np.asarray(value)
    if value.ndim == np.ndim(blank[key]):
      value = np.broadcast_to(value, (num, *value.shape))
    if value.shape[0] == 1:
      value = np.broadcast_to(value, (num, *value.shape[1:]))
    if value.shape[0] != num:
      raise UserError(
        f'{value.shape[0]} values of {key!r} for num={num} images; give '
        'one, or one for each.'
      )
    found[key] = value
  return found


def check_guidance(parts: Parts, guidance: float) -> None:
  """Raises UserError where no condition could guide, or none be dropped.

  Warns where the run states that it was never trained without one.
  """
  parts.check_guidance(guidance)
  if guidance != 1:
    parts.check_null(f'guidance={guidance}')
  if guidance != 1 and parts.config.null_prob == 0:
    logging.log_first_n(
      logging.WARNING,
      'guidance=%s: this run was trained with null_prob=0, so it never saw its '
      'condition dropped; images guided so may be worse than without.',
      1,
      guidance,
    )


def drawn_size(
  parts: Parts,
  size: tuple[int, int] | None,
  inputs: Mapping[str, Any],
  edited: tuple[int, int] | None = None,
) -> tuple[int, int]:
  """(height, width) to draw: the inputs', the user's, or that of training.

  Args:
    parts: of the run.
    size: the user's.
    inputs: the task's, which may have a size.
    edited: the size of an image begun from.

  Raises:
    UserError: a size other than the inputs', or inputs of no size to draw.
  """
  if edited is not None:
    given = edited
  elif hasattr(parts.prepare, 'size_of'):
    given = tuple(parts.prepare.size_of(inputs))
    if hasattr(parts.prepare, 'check_size'):
      unit = parts.first_stage.downsampling * parts.latent_multiple
      parts.prepare.check_size(inputs, unit)
  else:
    return size or (parts.data.size,) * 2
  if size not in (None, given):
    raise UserError(
      f'size={size[0]}x{size[1]}, but the inputs are for images of '
      f'{given[0]}x{given[1]}; leave size out.'
    )
  return given
