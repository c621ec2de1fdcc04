"""Model cards: what an exported model is, how it was made, what it cannot."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ldm_jax.interop import masked_image

_COMPVIS = """\
## Use

With the authors' code (github.com/CompVis/latent-diffusion): build the model of
`config.yaml` with `instantiate_from_config(config.model)`, then
`model.load_state_dict(torch.load('model.ckpt')['state_dict'])`. The same
tensors are in `model.safetensors`.
"""
_DIFFUSERS = """\
## Use

`diffusers.DiffusionPipeline.from_pretrained(FOLDER)` opens the pipeline; where
there is no `model_index.json`, each component's class (`_class_name` in its
`config.json`) opens its own folder.
"""
_SAFETENSORS = """\
## Use

`model.safetensors` holds the parameters by item and path, as Flax has them
(convolutions [h w in out], matrices [in out]); `config.json` says what network
they belong to.
"""
_STABLEHLO = """\
## Use

One `jax.export` artifact, which jax runs without any other code (with the
package flatbuffers): `jax.export.deserialize(bytearray(CONTENT)).call(INPUTS)`
gives uint8 images. INPUTS is a dict of arrays; the `.json` beside the file
tells their names, shapes, dtypes and usual values, and holds the tokenizer's
files where there is text. Inside are {platforms}; steps ({steps}), sampler
({sampler}) and size ({size}) are fixed.

| input | dtype and shape | |
|---|---|---|
{inputs}
"""
_LIMITS = """\
## Limits

Images show what the training data shows, its errors and its prejudices
included. Nothing here filters what is drawn. Read the licence of the data and
of the weights that this model was made from before passing it on.
"""


def compvis(config, items, meta, step) -> str:
  """The README.md of an export in the release's layout."""
  notes = []
  loss = config.get('loss', {})
  if loss.get('prediction') == 'v':
    notes.append(
      "The network predicts v, which the authors' own code does not know; "
      'later forks of it do.'
    )
  if config.get('schedule', {}).get('zero_terminal_snr'):
    notes.append(
      'Its noise schedule ends without signal. `config.yaml` has no key for '
      'that; the buffers in the checkpoint do, once they are loaded.'
    )
  task = config.get('task', {})
  bert = masked_image.encoder_of(task.get('name')) == 'text'
  if bert and task.get('vocab_file'):
    notes.append(
      'Prompts become tokens by the vocabulary of this run, not by that of '
      "bert-base-uncased, which the authors' code would fetch."
    )
  return _card(config, items, meta, step, _COMPVIS, notes)


def diffusers(config, items, meta, step, notes) -> str:
  """The README.md of a diffusers folder; `notes` are of its export."""
  return _card(config, items, meta, step, _DIFFUSERS, list(notes))


def safetensors(config, items, meta, step) -> str:
  """The README.md of an export in our own layout."""
  return _card(config, items, meta, step, _SAFETENSORS, [])


def stablehlo(config, items, meta, step, about) -> str:
  """The .md beside a StableHLO file; `about` is the .json there."""
  height, width = about['output']['shape'][1:3]
  use = _STABLEHLO.format(
    platforms=', '.join(about['platforms']),
    steps=about['fixed']['steps'],
    sampler=about['fixed']['sampler'],
    size=f'{height}x{width}',
    inputs='\n'.join(
      f'| {name} | {x["dtype"]} [{", ".join(map(str, x["shape"]))}] | '
      f'{x["meaning"]} |'
      for name, x in about['inputs'].items()
    ),
  )
  return _card(config, items, meta, step, use, [])


def _card(
  config: Mapping[str, Any],
  items: Mapping[str, Any],
  meta: Mapping[str, Any],
  step: int,
  use: str,
  notes: list[str],
) -> str:
  first = config['first_stage']
  diffusion = 'unet' in config and config.get('stage') == 'diffusion'
  what = (
    f'A latent diffusion model, task `{config["task"]["name"]}`, on a '
    f'`{first["name"]}` first stage'
    if diffusion
    else f'A first stage (`{first["name"]}` autoencoder)'
  )
  lines = [
    '# Model card',
    '',
    f'{what}, for images of {config["data"]["size"]} x '
    f'{config["data"]["size"]} pixels (Rombach et al. 2022).',
    '',
    '| | |',
    '|---|---|',
    *(
      f'| parameters, {name} | {_count(items[name]):,} |'
      for name in ('model', 'ema', 'first_stage')
      if name in items
    ),
    f'| training data | {_data(config, meta)} |',
    f'| steps trained here | {step:,} |',
  ]
  if diffusion:
    lines.append(f'| scale factor of the latents | {meta["scale_factor"]!r} |')
  for section in ('first_stage', 'unet', 'task', 'schedule', 'loss'):
    if config.get(section):
      lines.append(f'| {section} | {_fields(config[section])} |')
  lines += ['', *(f'{note}\n' for note in notes), use, _LIMITS]
  return '\n'.join(lines)


def _count(tree: Any) -> int:
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def _data(config: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
  if meta.get('source'):
    return f'those of the imported model ({meta["source"]["format"]})'
  # Where a folder lies is nobody's business.
  return f'`{config["data"]["source"]}`'


def _fields(section: Mapping[str, Any]) -> str:
  private = ('vocab_file', 'lpips_path', 'path')
  shown = {
    k: v for k, v in section.items() if k not in private and v is not None
  }
  return ', '.join(f'{key} {value}' for key, value in shown.items())
