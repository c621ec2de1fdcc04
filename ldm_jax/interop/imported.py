"""What an import hands over, whoever wrote the file."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Imported:
  """What a workdir is made of.

  Attributes:
    config: the sections that the source decides, as build.py reads them.
    items: float32 trees 'model', 'ema', 'first_stage' (or the last alone), and
      'carried': what only an export reads.
    meta: scale_factor, use_ema, and `source` for the export.
    notes: what the user should know, a sentence each.
    files: small ones to keep in the workdir, by path: a tokenizer's.
  """

  config: dict[str, Any]
  items: dict[str, Any]
  meta: dict[str, Any]
  notes: list[str]
  files: dict[str, bytes] = dataclasses.field(default_factory=dict)


# What a source says nothing of; training on needs the user's own.
_DEFAULTS = {
  'num_steps': 100_000,
  'batch_size': 8,
  'dtype': 'float32',
}


def complete(config: dict[str, Any]) -> dict[str, Any]:
  """A whole config for a workdir, from the sections of an import."""
  data = {'source': 'folder', 'upscale': True, **config.get('data', {})}
  optim = {'learning_rate': 1e-6, **config.get('optim', {})}
  loss = config.get('loss', {})
  return {**_DEFAULTS, **config, 'data': data, 'optim': optim, 'loss': loss}
