"""A run as a folder that diffusers opens with `from_pretrained`."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.interop import (
  clip_names,
  compvis_names,
  diffusers_names,
  diffusers_release,
  files,
  masked_image,
  names,
)
from ldm_jax.interop.diffusers import INDEX, PIPELINES
from ldm_jax.interop.names import Row
from ldm_jax.types import UserError

_PIPELINES = {task: pipeline for pipeline, task in PIPELINES.items()}


def write_folder(
  config: Mapping[str, Any],
  items: Mapping[str, Any],
  meta: Mapping[str, Any],
  out: str,
  tokenizer: Mapping[str, bytes] | None = None,
) -> list[str]:
  """Writes the components and, where a pipeline takes the task, its index.

  Args:
    config: the run's.
    items: its trees, as numpy arrays.
    meta: the checkpoint's.
    out: an empty folder.
    tokenizer: files of a text task's tokenizer, by name.

  Returns:
    What the user should know, a sentence each.

  Raises:
    UserError: diffusers has no such model.
  """
  if config.get('stage') == 'first_stage':
    section = config['first_stage']
    # What came without a factor leaves without; their default is not 1.
    scale = meta.get('source', {}).get('scaling_factor', 1.0)
    _write_first_stage(section, items, out, config['data']['size'], scale)
    return []
  return _Export(config, items, meta, out).write(tokenizer or {})


class _Export:
  """A pipeline being written."""

  def __init__(self, config, items, meta, out):
    if config['task']['name'] == 'inpainting_clip_text':
      config, items = masked_image.retold(config, items, 1.0, mask_first=True)
    self.config, self.items, self.meta = config, items, meta
    self.out = out
    self.task = config['task']
    self.name = self.task['name']
    self.is_clip = masked_image.encoder_of(self.name) == 'clip_text'
    # How a folder that was imported had its names; another source says nothing.
    source = meta.get('source') or {}
    self.source = source if source.get('format') == 'diffusers' else {}
    self.notes: list[str] = []
    self.index: dict[str, Any] = {}

  def write(self, tokenizer: Mapping[str, bytes]) -> list[str]:
    if self.config['first_stage']['name'] == 'identity':
      raise UserError(
        'first_stage.name=identity: diffusers has no pipeline of latent '
        'diffusion without an autoencoder.'
      )
    self._first_stage()
    self._unet()
    scheduler = diffusers_release.scheduler(self.config)
    self._json('scheduler', scheduler, 'scheduler_config.json')
    self._add('scheduler', 'diffusers', scheduler['_class_name'])
    if self.name == 'text':
      self._bert(tokenizer)
    elif self.is_clip:
      self._clip(tokenizer)
      if not self._has_pipeline():
        return self.notes
    elif self.name not in _PIPELINES:
      self._other_conditioner()
      return self.notes
    index = {
      '_class_name': _PIPELINES[self.name],
      '_diffusers_version': scheduler['_diffusers_version'],
      **self.index,
    }
    write_json(os.path.join(self.out, INDEX), index)
    return self.notes

  def _first_stage(self):
    config, items = self.config, self.items
    section = config['first_stage']
    scale = float(self.meta['scale_factor'])
    if self.name == 'super_resolution' and scale != 1.0:
      # Its pipeline never scales: the autoencoder takes the factor in.
      items = {**items, 'first_stage': fold(section, items, scale)}
      self.notes.append(
        f'The scale factor {scale} is part of the autoencoder: '
        'LDMSuperResolutionPipeline does not scale latents.'
      )
      scale = 1.0
    component = 'vae' if self.is_clip else 'vqvae'
    folder = os.path.join(self.out, component)
    name = _write_first_stage(
      section, items, folder, config['data']['size'], scale
    )
    self._add(component, 'diffusers', name)

  def _unet(self):
    config, section = self.config, _set(self.config['unet'])
    in_channels = compvis_names.in_channels(config)
    context = compvis_names.context_width(config)
    f = 2 ** (len(config['first_stage'].get('multipliers', (1, 2, 4))) - 1)
    size = config['data']['size'] // f
    if self.name == 'text' and f != 8:
      # Its pipeline divides by 8 whatever the first stage divides by.
      size = max(size * 8 // f, 1)
    values = diffusers_release.unet(section, in_channels, context, size)
    rows = diffusers_names.unet(section, in_channels, context)
    items = self.items
    if self.meta.get('use_ema', True):
      items = {**items, 'model': {**items['model'], 'unet': items['ema']}}
    tensors = names.to_theirs(rows, items)
    tensors = diffusers_names.split(rows, tensors, section)
    self._json('unet', values)
    self._weights('unet', 'diffusion_pytorch_model', tensors)
    self._add('unet', 'diffusers', values['_class_name'])
    if 'logvar' in items['model']:
      self.notes.append('The learned log-variances are of training alone.')

  def _bert(self, tokenizer: Mapping[str, bytes]):
    task = _set(self.task)
    tensors = names.to_theirs(diffusers_names.text(task), self.items)
    for row in diffusers_names.text_unused(task):
      found = _find(self.items, row.ours)
      tensors[row.theirs] = (
        np.zeros(row.shape, np.float32) if found is None else found
      )
    self._json('bert', diffusers_release.bert(task))
    self._weights('bert', 'model', tensors)
    self._add('bert', 'latent_diffusion', 'LDMBertModel')
    length = task.get('length', 77)
    self._tokenizer(tokenizer, 'BertTokenizer', {
      'do_lower_case': True, 'cls_token': '[CLS]', 'mask_token': '[MASK]',
      'pad_token': '[PAD]', 'sep_token': '[SEP]', 'unk_token': '[UNK]',
      'model_max_length': length,
    })  # fmt: skip
    if length != 77:
      self.notes.append(
        f'This text encoder reads {length} tokens, and LDMTextToImagePipeline '
        'makes 77 of every prompt: give its components tokens of your own, or '
        'train with task.length=77.'
      )

  def _clip(self, tokenizer: Mapping[str, bytes]):
    task = {**clip_names.DEFAULTS, **_set(self.task)}
    tensors = names.to_theirs(clip_names.text_encoder(task), self.items)
    if self.source.get('position_ids'):
      ids = np.arange(task['length'], dtype=np.int64)[None]
      tensors[clip_names.POSITION_IDS] = ids
    if not self.source.get('prefixed', True):
      tensors = {k.removeprefix('text_model.'): v for k, v in tensors.items()}
    self._json('text_encoder', diffusers_release.clip_text(task))
    self._weights('text_encoder', 'model', tensors)
    self._add('text_encoder', 'transformers', 'CLIPTextModel')
    self._tokenizer(tokenizer, 'CLIPTokenizer', {
      'bos_token': '<|startoftext|>', 'eos_token': '<|endoftext|>',
      'pad_token': '<|endoftext|>', 'unk_token': '<|endoftext|>',
      'model_max_length': task['length'],
    })  # fmt: skip
    # Here nothing filters what is drawn, and the pipeline is told so.
    for absent in ('feature_extractor', 'image_encoder', 'safety_checker'):
      self._add(absent, None, None)
    self.index['requires_safety_checker'] = False

  def _tokenizer(self, given: Mapping[str, bytes], kind: str, settings: dict):
    if not given:
      self._add('tokenizer', None, None)
      self.notes.append(
        'The run has no tokenizer (task.vocab_file), so the pipeline has none.'
      )
      return
    folder = os.path.join(self.out, 'tokenizer')
    os.makedirs(folder)
    for name, content in given.items():
      with open(os.path.join(folder, name), 'wb') as f:
        f.write(content)
    if 'tokenizer_config.json' not in given:
      self._json(
        'tokenizer',
        {'tokenizer_class': kind, **settings},
        'tokenizer_config.json',
      )
    self._add('tokenizer', 'transformers', kind)

  def _has_pipeline(self) -> bool:
    """Whether what a masked image is told as is as their pipeline has it."""
    if self.name not in masked_image.TASKS:
      return True
    if masked_image.fits(self.task, masked_image.STABLE):
      return True
    told = masked_image.filled(self.task)
    self.notes.append(
      f'StableDiffusionInpaintPipeline fills holes with 0 and has masks of 0 '
      f'and 1; this run task.hole={told["hole"]} and task.mask_low='
      f'{told["mask_low"]}. So it has no pipeline there, and each component '
      'opens with its own from_pretrained.'
    )
    return False

  def _other_conditioner(self):
    self.notes.append(
      f'diffusers has no pipeline of the task {self.name!r}: each component '
      'opens with its own from_pretrained.'
    )
    conditioner = self.items['model'].get('conditioner')
    if conditioner:
      self._weights('conditioner', 'model', names.flatten(conditioner))
      self.notes.append(
        'conditioner/model.safetensors is in the names and layouts of Flax.'
      )

  def _add(self, component: str, library: str | None, kind: str | None):
    self.index[component] = [library, kind]

  def _json(self, component: str, values: Mapping, name='config.json'):
    folder = os.path.join(self.out, component)
    os.makedirs(folder, exist_ok=True)
    write_json(os.path.join(folder, name), values)

  def _weights(self, component: str, stem: str, tensors: Mapping):
    folder = os.path.join(self.out, component)
    os.makedirs(folder, exist_ok=True)
    files.write_tensors(os.path.join(folder, f'{stem}.safetensors'), tensors)


def _write_first_stage(
  section: Mapping, items: Mapping, folder: str, size: int, scale: float | None
) -> str:
  """Writes one autoencoder; returns its class."""
  if section['name'] == 'identity':
    raise UserError('first_stage.name=identity has nothing to export.')
  values = diffusers_release.first_stage(section, size, scale)
  rows: list[Row] = diffusers_names.first_stage(_set(section))
  os.makedirs(folder, exist_ok=True)
  write_json(os.path.join(folder, 'config.json'), values)
  files.write_tensors(
    os.path.join(folder, 'diffusion_pytorch_model.safetensors'),
    names.to_theirs(rows, items),
  )
  return values['_class_name']


def fold(section: Mapping, items: Mapping, scale: float) -> dict[str, Any]:
  """A first stage whose latents are `scale` times those of the given one."""
  params = dict(items['first_stage'])
  quant = {k: np.array(v) for k, v in params['quant_conv'].items()}
  means = section['embed_dim']
  for x in quant.values():
    x[..., :means] *= scale
  if section['name'] == 'kl':
    # The rest are log-variances: the kernel stays, the bias moves.
    quant['bias'][means:] += 2 * np.log(scale)
  else:
    codebook = params['quantize']['embedding'] * np.float32(scale)
    params['quantize'] = {'embedding': codebook}
  post = dict(params['post_quant_conv'])
  post['kernel'] = post['kernel'] / np.float32(scale)
  return {**params, 'quant_conv': quant, 'post_quant_conv': post}


def write_json(path: str, values: Mapping[str, Any]) -> None:
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(values, f, indent=2, sort_keys=True)
    f.write('\n')


def _set(section: Mapping[str, Any]) -> dict[str, Any]:
  """Without the keys that a run leaves unset."""
  return {k: v for k, v in section.items() if v is not None}


def _find(items: Mapping, path: str) -> np.ndarray | None:
  node: Any = items
  for key in path.split('/'):
    node = node.get(key) if isinstance(node, Mapping) else None
  return node
