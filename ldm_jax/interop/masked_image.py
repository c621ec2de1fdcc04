"""Masked images as other tools tell them to a U-Net, beside a text or alone.

All of them concatenate the mask and the latent of the image with holes. In
what order, and how the latent is scaled, can stand in the weights that read
them. What fills the holes and what a mask is where pixels are known cannot: an
encoder is not linear, and a convolution pads with zeros.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

# Tasks with text -> the one of the text alone, whose encoder is the same.
WITH_TEXT = {'inpainting_text': 'text', 'inpainting_clip_text': 'clip_text'}
TASKS = ('inpainting', *WITH_TEXT)
# The fields of our task, as the released models have them: of the paper's, and
# of Stable Diffusion's, to which scripts and pipelines add text.
PAPER = {'hole': -1.0, 'mask_low': -1.0, 'mask_first': False}
STABLE = {'hole': 0.0, 'mask_low': 0.0, 'mask_first': True}


def encoder_of(name: str | None) -> str | None:
  """The task whose text encoder a task has; its own name where it has none."""
  return WITH_TEXT.get(name, name)


def filled(task: Mapping[str, Any]) -> dict[str, Any]:
  """The section with the defaults of what it leaves out or unset."""
  usual = STABLE if task['name'] == 'inpainting_clip_text' else PAPER
  given = {k: v for k, v in task.items() if v is not None}
  return {'latent_scale': 1.0, **usual, **given}


def fits(task: Mapping[str, Any], form: Mapping[str, Any]) -> bool:
  """Whether its holes and masks are those of a form."""
  task = filled(task)
  return all(task[key] == form[key] for key in ('hole', 'mask_low'))


def retold(
  config: Mapping[str, Any],
  items: Mapping[str, Any],
  latent_scale: float,
  mask_first: bool | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """(config, items) of the same function, told in another scale and order.

  Both come back as they are where nothing differs. The order stays where
  `mask_first` is None.
  """
  config, items = dict(config), dict(items)
  task = filled(config['task'])
  if mask_first is None:
    mask_first = task['mask_first']
  share = task['latent_scale'] / latent_scale
  if np.isclose(share, 1.0, rtol=1e-12):
    share = 1.0
  if share == 1.0 and mask_first == task['mask_first']:
    return config, items
  latent = config['unet']['out_channels']

  def changed(unet: Mapping) -> dict[str, Any]:
    kernel = np.asarray(unet['conv_in']['kernel'])  # [k k ci co]
    z, told = np.split(kernel, [latent], axis=2)
    at = 1 if task['mask_first'] else latent
    mask, image = np.split(told, [at], axis=2)
    if not task['mask_first']:
      mask, image = image, mask
    both = [mask, image * np.float32(share)]
    told = both if mask_first else both[::-1]
    kernel = np.concatenate([z, *told], axis=2)
    return {**unet, 'conv_in': {**unet['conv_in'], 'kernel': kernel}}

  model = items['model']
  config['task'] = {
    **config['task'], 'latent_scale': latent_scale, 'mask_first': mask_first,
  }  # fmt: skip
  items['model'] = {**model, 'unet': changed(model['unet'])}
  items['ema'] = changed(items['ema'])
  return config, items
