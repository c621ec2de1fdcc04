"""Models of other forms, in the form that the release can hold.

Its text encoder has eight heads of width 64, whatever the model's width. Fewer
and narrower ones are a special case of that: the rest of the heads is zero.

Its inpainting reads a masked latent that is not scaled, and the mask after it;
with a text, one that is scaled.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.interop import masked_image
from ldm_jax.interop.compvis_names import TOKEN_TRANSFORMER, filled
from ldm_jax.types import UserError

_HEADS, _WIDTH = 8, 64


def widened(
  config: Mapping[str, Any], items: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """(config, items) of the same function with the release's heads.

  Models of other tasks, and those that have these heads, come back as they
  are. Queries are scaled for the wider softmax, so numbers agree to rounding.

  Raises:
    UserError: more or wider heads than the release has.
  """
  name = config.get('task', {}).get('name')
  if name not in TOKEN_TRANSFORMER:
    return dict(config), dict(items)
  task = filled(TOKEN_TRANSFORMER[name], config['task'])
  heads, width = task['num_heads'], task['head_width']
  if (heads, width) == (_HEADS, _WIDTH):
    return dict(config), dict(items)
  if heads > _HEADS or width > _WIDTH:
    raise UserError(
      f"The release's text encoder has {_HEADS} heads of width {_WIDTH}; this "
      f'one has {heads} of {width}, which do not fit in. Use '
      '--format=safetensors.'
    )
  model = items['model']
  tree = model['conditioner']['transformer']
  wide = {
    key: _attention(value, heads, width) if key.endswith('_attn') else value
    for key, value in tree.items()
  }
  conditioner = {**model['conditioner'], 'transformer': wide}
  task |= {'num_heads': _HEADS, 'head_width': _WIDTH}
  return (
    {**config, 'task': task},
    {**items, 'model': {**model, 'conditioner': conditioner}},
  )


def retold(
  config: Mapping[str, Any], items: Mapping[str, Any], meta: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """(config, items) of the same function, of masked images as released."""
  name = config.get('task', {}).get('name')
  if name not in masked_image.TASKS:
    return dict(config), dict(items)
  if name != 'inpainting':  # The order is in the config there.
    return masked_image.retold(config, items, 1.0)
  scale = meta.get('scale_factor', 1.0)
  return masked_image.retold(config, items, 1.0 / scale, mask_first=False)


def _attention(tree: Mapping, heads: int, width: int) -> dict[str, Any]:
  missing = ((0, 0), (0, _HEADS - heads), (0, _WIDTH - width))

  def columns(kernel, scale=1.0):  # [C heads*width] -> [C 512]
    split = np.asarray(kernel).reshape(-1, heads, width)
    wide = np.pad(split, missing).reshape(-1, _HEADS * _WIDTH)
    return wide * np.float32(scale)

  out = columns(np.asarray(tree['out']['kernel']).T).T
  return {
    'q': {'kernel': columns(tree['q']['kernel'], (_WIDTH / width) ** 0.5)},
    'k': {'kernel': columns(tree['k']['kernel'])},
    'v': {'kernel': columns(tree['v']['kernel'])},
    'out': {**tree['out'], 'kernel': out},
  }
