"""diffusers folders, in and out.

A pipeline is a folder of components, each with its config.json and weights,
and a model_index.json that says which. Of these pipelines models are read:
LDMPipeline, LDMTextToImagePipeline, LDMSuperResolutionPipeline,
StableDiffusionPipeline and StableDiffusionInpaintPipeline (1.x); and
AutoencoderKL and VQModel on their own.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ldm_jax.interop import (
  clip_names,
  compvis_names,
  diffusers_config,
  diffusers_names,
  folder_files,
  masked_image,
  names,
)
from ldm_jax.interop.folder_files import read_json, read_weights
from ldm_jax.interop.imported import Imported
from ldm_jax.interop.names import Row
from ldm_jax.types import UserError

INDEX = 'model_index.json'
# Pipeline -> our task.
PIPELINES = {
  'LDMPipeline': 'unconditional',
  'LDMTextToImagePipeline': 'text',
  'LDMSuperResolutionPipeline': 'super_resolution',
  'StableDiffusionPipeline': 'clip_text',
  'StableDiffusionInpaintPipeline': 'inpainting_clip_text',
}
# What autoencoders were scaled by before their configs said so.
_OLD_SCALE = 0.18215


def is_folder(path: str) -> bool:
  """Whether diffusers wrote it: a pipeline, or one autoencoder."""
  if os.path.isfile(os.path.join(path, INDEX)):
    return True
  config = os.path.join(path, 'config.json')
  if not os.path.isfile(config):
    return False
  values = read_json(config)
  return isinstance(values, dict) and '_class_name' in values


def read_folder(
  path: str,
  *,
  use_ema: bool | None = None,
  legacy: bool = False,
  initial: Callable[[dict], Mapping] | None = None,
) -> Imported:
  """A folder as a workdir's items.

  Args:
    path: the folder.
    use_ema: True is refused: the folder has one set of weights.
    legacy: whether weights in PyTorch's format of before 1.6 are read too.
    initial: of our config, trees with a value for what the files lack; given,
      what fits is loaded (lenient).

  Raises:
    UserError: an unknown pipeline, a config that is not supported, or
      weights that do not fit, with every name that is missing, unexpected,
      misshapen or not finite.
  """
  if use_ema:
    raise UserError(
      f'{path} has one set of weights; leave --use_ema out to sample by it.'
    )
  folder = _Folder(path)
  if os.path.isfile(os.path.join(path, INDEX)):
    folder.pipeline()
  else:
    folder.autoencoder()
  return folder.load(legacy, initial)


class _Folder:
  """What has been read of a folder so far."""

  def __init__(self, path: str):
    self.path = path
    self.config: dict[str, Any] = {}
    self.scale_factor: float | None = None
    self.source: dict[str, Any] = {'format': 'diffusers'}
    self.files: dict[str, bytes] = {}
    self.notes: list[str] = []
    # By component: the table, and what the file may have besides.
    self.tables: dict[str, list[Row]] = {}

  def place(self, *parts: str) -> str:
    return os.path.join(self.path, *parts)

  def values(self, component: str, name: str = 'config.json') -> dict:
    place = self.place(component, name)
    values = read_json(place)
    if not isinstance(values, dict):
      raise UserError(f'{place} is no JSON object.')
    return values

  # Configs.

  def autoencoder(self):
    """One first stage, in the folder itself."""
    section, scale = diffusers_config.first_stage(
      self.values(''), self.place('config.json')
    )
    size = self.values('').get('sample_size')
    f = 2 ** (len(section['multipliers']) - 1)
    whole = type(size) is int and size > 0 and size % f == 0
    self.config = {
      'stage': 'first_stage',
      'first_stage': section,
      'loss': {'perceptual_weight': 0.0, 'disc_weight': 0.0},
      'data': {'size': size if whole else 256},
    }
    self.source |= {'pipeline': '', 'scaling_factor': scale}
    self.tables[''] = diffusers_names.first_stage(section)

  def pipeline(self):
    index = read_json(self.place(INDEX))
    name = index.get('_class_name') if isinstance(index, dict) else None
    if name not in PIPELINES:
      raise UserError(
        f'{self.place(INDEX)}: _class_name={name!r}; supported: '
        f'{", ".join(PIPELINES)}.'
      )
    self.source['pipeline'] = name
    first = next(
      (c for c in ('vqvae', 'vae') if os.path.isdir(self.place(c))), 'vae'
    )
    section, scale = diffusers_config.first_stage(
      self.values(first), self.place(first, 'config.json')
    )
    unet, in_channels, context, size = diffusers_config.unet(
      self.values('unet'), self.place('unet', 'config.json')
    )
    task = self._told(PIPELINES[name], in_channels, section)
    self.scale_factor = self._scale(task, section, scale, first)
    schedule, loss, sampling, notes = diffusers_config.scheduler(
      self.values('scheduler', 'scheduler_config.json'),
      self.place('scheduler', 'scheduler_config.json'),
    )
    self.notes += notes
    if sampling != {'sampler': 'ddim', 'spacing': 'leading'}:
      flags = '--sampler={sampler} --spacing={spacing}'.format(**sampling)
      self.notes.append(
        'sample.py draws with DDIM at leading timesteps unless told otherwise; '
        f'as the folder says, with {flags}.'
      )
    self.config = {
      'stage': 'diffusion',
      'first_stage': section,
      'unet': unet,
      'task': self._task(task, section),
      'schedule': schedule,
      'loss': loss,
      'sampling': sampling,
      'scale_factor': self.scale_factor,
    }
    image_size = self.values(first).get('sample_size')
    self.config['data'] = {'size': self._size(size, image_size)}
    self._check(in_channels, context)
    if os.path.isdir(self.place('safety_checker')):
      self.notes.append(
        'The safety checker is left out: images are unfiltered.'
      )
    self.tables[first] = diffusers_names.first_stage(section)
    self.tables['unet'] = diffusers_names.unet(unet, in_channels, context)

  def _told(self, task: str, in_channels: int, first_stage: Mapping) -> str:
    """The task; with CLIP, the U-Net's channels say whether it sees a mask."""
    if masked_image.encoder_of(task) != 'clip_text':
      return task
    latent = first_stage['embed_dim']
    if in_channels == 2 * latent + 1:
      return 'inpainting_clip_text'
    if in_channels != latent:
      return task
    if task != 'clip_text':
      self.notes.append(
        'The U-Net sees no mask, so this is a model of text; it fills holes as '
        'any model does.'
      )
    return 'clip_text'

  def _scale(self, task: str, section, scale, first: str) -> float:
    if task == 'super_resolution':
      return 1.0  # Its pipeline does not scale, whatever the config says.
    if scale is not None:
      return scale
    # The pipelines divided by a constant, or, the unconditional one, by none.
    scale = 1.0 if task == 'unconditional' else _OLD_SCALE
    self.notes.append(
      f'{self.place(first, "config.json")} has no scaling_factor; {scale} is '
      'taken, as its pipeline had when such files were written.'
    )
    return scale

  def _task(self, name: str, first_stage: Mapping) -> dict[str, Any]:
    if name == 'unconditional':
      return {'name': name}
    if name == 'super_resolution':
      factor = 2 ** (len(first_stage['multipliers']) - 1)
      return {'name': name, 'factor': factor}
    if name == 'text':
      task = diffusers_config.bert(
        self.values('bert'), self.place('bert', 'config.json')
      )
      self.tables['bert'] = diffusers_names.text(task)
      special, self.files = folder_files.word_pieces(self.place('tokenizer'))
    else:
      place = self.place('text_encoder', 'config.json')
      task = diffusers_config.clip_text(self.values('text_encoder'), place)
      self.tables['text_encoder'] = clip_names.text_encoder(task)
      special, self.files = folder_files.byte_pairs(
        self.place('tokenizer'), task['vocab_size']
      )
    if self.files:
      task['special_tokens'] = special
      self.files = {f'tokenizer/{k}': v for k, v in self.files.items()}
      # Relative to the workdir, into which the files go.
      kept = {'text': 'tokenizer/vocab.txt', 'clip_text': 'tokenizer'}
      task['vocab_file'] = kept[task['name']]
    else:
      self.notes.append('There is no tokenizer: prompts are given as tokens.')
    form = masked_image.STABLE if name in masked_image.TASKS else {}
    return {**task, **form, 'name': name}

  def _size(self, sample_size: int | None, image_size: Any) -> int:
    """The side of the training images; the autoencoder may know it better."""
    f = 2 ** (len(self.config['first_stage']['multipliers']) - 1)
    if sample_size is None:
      return 64 * f
    # The text pipeline divides by 8 whatever the first stage divides by, so
    # that sample_size may be one that comes out right.
    if self.config['task']['name'] == 'text':
      drawn = sample_size * f // 8 * f
      if drawn and drawn == image_size:
        return drawn
    return sample_size * f

  def _check(self, in_channels: int, context: int):
    config = self.config
    latent = config['first_stage']['embed_dim']
    wanted = compvis_names.in_channels(config)
    out = config['unet']['out_channels']
    if in_channels != wanted or out != latent:
      raise UserError(
        f'{self.place("unet", "config.json")}: in_channels={in_channels} and '
        f'out_channels={out}; with latents of {latent} channels this pipeline '
        f'needs {wanted} and {latent}.'
      )
    width = compvis_names.context_width(config)
    if context != width:
      raise UserError(
        f'{self.place("unet", "config.json")}: it reads a context of width '
        f'{context} (cross_attention_dim); this pipeline gives {width}.'
      )

  # Weights.

  def load(self, legacy: bool, initial: Callable | None) -> Imported:
    rows, tensors = [], {}
    for component, table in self.tables.items():
      prefix = f'{component}/' if component else ''
      found = read_weights(self.place(component), legacy)
      if component == 'text_encoder':
        found = self._clip(found)
      extra = []
      if component == 'bert':
        extra = diffusers_names.text_unused(self.config['task'])
        extra = [row for row in extra if row.theirs in found]
        self.source['carried'] = bool(extra)
      found = diffusers_names.modernise(table + extra, found)
      tensors |= {prefix + name: x for name, x in found.items()}
      rows += [
        dataclasses.replace(row, theirs=prefix + row.theirs)
        for row in table + extra
      ]
    whole = [part for row in rows for part in diffusers_names.parts(row)]
    mismatch = names.compare(whole, tensors)
    if mismatch and initial is None:
      raise UserError(
        f'{self.path} does not fit its configs. {mismatch}. --lenient imports '
        'what fits.'
      )
    fitting = names.fitting(whole, tensors, mismatch)
    section = self.config.get('unet', {})
    items = names.to_ours(rows, diffusers_names.fuse(rows, fitting, section))
    if mismatch:
      self.notes.append(names.share(whole, tensors, mismatch))
      base = initial(self.config)
      items = {**items, **names.overlay(base, items)}
    meta = {
      'next_example': 0,
      'stage': self.config['stage'],
      'source': self.source,
    }
    if self.scale_factor is not None:
      meta |= {'scale_factor': self.scale_factor, 'use_ema': False}
      items['ema'] = items['model']['unet']
    return Imported(self.config, items, meta, self.notes, self.files)

  def _clip(self, tensors: Mapping) -> dict[str, np.ndarray]:
    """Names with their prefix, which transformers 5 leaves out."""
    root = 'text_model.'
    prefixed = any(name.startswith(root) for name in tensors)
    tensors = {
      name if prefixed else root + name: x for name, x in tensors.items()
    }
    ids = tensors.pop(clip_names.POSITION_IDS, None)
    self.source |= {'prefixed': prefixed, 'position_ids': ids is not None}
    return tensors
