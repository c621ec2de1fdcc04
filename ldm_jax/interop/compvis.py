"""A release's checkpoint, whole: into the items of a workdir, and back.

What the networks don't need but the file has (schedule buffers, an unused
output head, the losses' networks) is carried along as it is, so that an
export gives back the tensors that came in.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ldm_jax.interop import (
  clip_names,
  compvis_buffers,
  compvis_names,
  masked_image,
  names,
)
from ldm_jax.interop.compvis_config import Read
from ldm_jax.interop.imported import Imported
from ldm_jax.types import UserError

Tensors = Mapping[str, np.ndarray]

EMA_STATE = ('model_ema.decay', 'model_ema.num_updates')
CLIP = 'cond_stage_model.transformer.'
POSITION_IDS = CLIP + clip_names.POSITION_IDS
_CLIP_VOCABULARY = clip_names.DEFAULTS['vocab_size']
# Carried where they are: the networks and scalars that losses keep.
CARRIED = tuple(
  f'{stage}{name}'
  for stage in ('', 'first_stage_model.', 'cond_stage_model.')
  # The second: random colours, in which a first stage of maps is shown.
  for name in ('loss.', 'colorize')
)
# Left out: a sampler's buffers, saved with the model by accident, and the
# averages of a first stage, which no diffusion model reads.
STRAYS = (
    'ddim_', 'model.model_ema', 'lvlb_weights', 'first_stage_model.model_ema.',
    'cond_stage_model.model_ema.',
)  # fmt: skip


def read_state(
  tensors: Tensors,
  read: Read,
  *,
  path: str = 'the checkpoint',
  use_ema: bool | None = None,
  initial: Callable[[dict], Mapping] | None = None,
) -> Imported:
  """The release's state_dict as a workdir's items.

  Args:
    tensors: the file's tensors by name, lazy ones welcome.
    read: its config.
    path: for messages.
    use_ema: which weights sample; unset, as the config says.
    initial: of our config, trees with a value for what the file lacks; given,
      what fits is loaded (lenient).

  Raises:
    UserError: naming everything that is missing, unexpected, misshapen or not
      finite, unless `initial` is given; no scale factor; no EMA.
  """
  flat_clip = _is_flat(tensors)
  tensors = _with_text_model(tensors)
  read = with_clip_sizes(read, tensors)
  config, notes = dict(read.config), list(read.notes)
  diffusion = 'unet' in config
  rows = compvis_names.table(config)
  ema_rows = compvis_names.ema(rows)
  has_ema = any(row.theirs in tensors for row in ema_rows)
  if has_ema:
    rows = rows + ema_rows
  carried, copies, rest = _sort_out(config, rows, tensors)
  kept = {k: v for k, v in tensors.items() if k not in rest}
  mismatch = names.compare(rows, kept)
  mismatch.misshapen.extend(_unlike_copies(copies, tensors))
  if mismatch and initial is None:
    raise UserError(
      f'{path} does not fit its config. {mismatch}. --lenient imports what '
      'fits.'
    )
  items = names.to_ours(rows, names.fitting(rows, kept, mismatch))
  items.setdefault('first_stage', {})  # The identity has no parameters.
  if mismatch:
    notes.append(names.share(rows, kept, mismatch))
    items = names.overlay(initial(config), items)
  meta = {
    'next_example': 0,
    'stage': config['stage'],
    'source': {
      'format': 'compvis',
      'ema': has_ema,
      'copies': bool(copies),
      'position_ids': POSITION_IDS in tensors,
      'carried': bool(carried),
      'scale_by_std': read.scale_by_std,
      'flat_clip': flat_clip,
      'clip_version': read.version,
    },
  }
  if diffusion:
    config['schedule'] = compvis_buffers.find_schedule(
      config['schedule'], tensors, path, notes
    )
    scale = meta['scale_factor'] = _scale_factor(read, tensors, path, notes)
    if config['task']['name'] == 'inpainting' and scale != 1.0:
      # The release conditions on a latent that it does not scale.
      config['task'] = {**config['task'], 'latent_scale': 1.0 / scale}
    meta['use_ema'] = _use_ema(use_ema, read.use_ema, has_ema, path, notes)
    if not has_ema:  # `initial` has a random one.
      items['ema'] = items['model']['unet']
  if carried:
    items['carried'] = names.nest(carried)
  return Imported(config, items, meta, notes)


def write_state(
  config: Mapping[str, Any],
  items: Mapping[str, Any],
  meta: Mapping[str, Any],
  step: int = 0,
) -> dict[str, np.ndarray]:
  """A workdir's items as the release's state_dict.

  Models that were imported get back the names that they came with; others get
  all that the release's classes save.

  Raises:
    UserError: a parameter is missing, or the model is none of the release's.
  """
  config = dict(config)
  source = meta.get('source') or {}
  if source.get('format') != 'compvis':
    ema = meta.get('use_ema', True)  # As config.yaml says.
    source = {'ema': ema, 'copies': True, 'position_ids': True}
  came = source.get('format') == 'compvis'
  rows = compvis_names.table(config)
  if source['ema']:
    rows += compvis_names.ema(rows)
  tensors = names.to_theirs(rows, items)
  carried = names.flatten(items.get('carried', {}))
  if 'unet' in config and not came:
    tensors |= compvis_buffers.buffers(config['schedule'])
    if source['ema']:
      tensors[EMA_STATE[0]] = np.float32(config.get('ema_decay', 0.9999))
      tensors[EMA_STATE[1]] = np.int32(step)
  for row in compvis_names.unused(config):
    if not came:
      tensors[row.theirs] = np.zeros(row.shape, np.float32)
  tensors |= carried
  if source['copies']:
    tensors |= {there: tensors[here] for there, here in _copies(config).items()}
  if source['position_ids'] and _has_clip(config.get('task', {})):
    length = config['task'].get('length', 77)
    tensors[POSITION_IDS] = np.arange(length, dtype=np.int64)[None]
  if source.get('flat_clip'):
    long = f'{CLIP}text_model.'
    tensors = {
      CLIP + k.removeprefix(long) if k.startswith(long) else k: v
      for k, v in tensors.items()
    }
  return tensors


def _has_clip(task: Mapping[str, Any]) -> bool:
  return masked_image.encoder_of(task.get('name')) == 'clip_text'


def _is_flat(tensors: Tensors) -> bool:
  """Whether CLIP has the names that transformers gives it since version 5."""
  return f'{CLIP}embeddings.token_embedding.weight' in tensors


def _with_text_model(tensors: Tensors) -> Tensors:
  if not _is_flat(tensors):
    return tensors
  return {
    f'{CLIP}text_model.{k.removeprefix(CLIP)}' if k.startswith(CLIP) else k: v
    for k, v in tensors.items()
  }


def with_clip_sizes(read: Read, tensors: Tensors) -> Read:
  """The size of a CLIP text encoder, which the release's config leaves out."""
  task = read.config.get('task', {})
  if not _has_clip(task):
    return read
  sizes = clip_names.sizes(_with_text_model(tensors), CLIP)
  if sizes.get('vocab_size', _CLIP_VOCABULARY) != _CLIP_VOCABULARY:
    end = sizes['vocab_size'] - 1  # The last two, as in CLIP's own.
    sizes['special_tokens'] = (end - 1, end, end)
  if task['length'] < sizes.get('length', 0):
    sizes['max_length'] = task['length']
  # What shapes cannot say is known better by whoever said it.
  said = {k: v for k, v in task.items() if k in ('num_heads', 'special_tokens')}
  config = {**read.config, 'task': {**task, **sizes, **said}}
  return dataclasses.replace(read, config=config)


def _sort_out(config, rows, tensors) -> tuple[Tensors, dict, set[str]]:
  """(carried, copies present, names that the table need not explain)."""
  known = {row.theirs for row in rows}
  extras = {row.theirs for row in compvis_names.unused(config)}
  if 'unet' in config:
    # `logvar` where it is not learned: later versions save it all the same.
    extras |= {*compvis_buffers.NAMES, *EMA_STATE, 'scale_factor', 'logvar'}
  carried = {
    name: _storable(x)
    for name, x in tensors.items()
    if name not in known and (name in extras or name.startswith(CARRIED))
  }
  copies = {
    there: here for there, here in _copies(config).items() if there in tensors
  }
  strays = {
    name
    for name in tensors
    if name not in known and (name.startswith(STRAYS) or name == POSITION_IDS)
  }
  if 'unet' not in config:  # A first stage's own average is not used.
    strays |= {name for name in tensors if name.startswith('model_ema.')}
  return carried, copies, {*carried, *copies, *strays}


def _copies(config: Mapping) -> dict[str, str]:
  """Inpainting's conditioner is the first stage, and saved a second time."""
  if config.get('task', {}).get('name') != 'inpainting':
    return {}
  rows = compvis_names.first_stage(config['first_stage'])
  return {
    compvis_names.CONDITIONER + row.theirs: compvis_names.FIRST_STAGE
    + row.theirs
    for row in rows
  }


def _unlike_copies(copies: Mapping[str, str], tensors: Tensors) -> list[str]:
  return [
    f'{there} unlike {here}'
    for there, here in copies.items()
    if here in tensors
    and (
      tensors[there].shape != tensors[here].shape
      or not _equal(tensors[there], tensors[here])
    )
  ]


def _equal(x: np.ndarray, y: np.ndarray) -> bool:
  if x.size and not any(x.strides) and not any(y.strides):
    return x.flat[0] == y.flat[0]
  return np.array_equal(x, y)


def _scale_factor(read: Read, tensors: Tensors, path: str, notes) -> float:
  """The buffer, where it was estimated in training; else the config's."""
  given = read.config['scale_factor']
  if 'scale_factor' in tensors:
    value = float(np.asarray(tensors['scale_factor'], np.float32).reshape(()))
    if read.scale_by_std:
      if not np.isfinite(value) or value <= 0:
        raise UserError(f'{path}: scale_factor={value} is no scale.')
      return value
    if not np.isclose(value, given, rtol=1e-2):
      notes.append(
        f'The checkpoint has scale_factor={value}, its config {given} and not '
        "scale_by_std; the config's is used, as released."
      )
  if read.scale_by_std:
    raise UserError(
      f'{path} has no scale_factor, which its config (scale_by_std) says was '
      'estimated in training. Without it latents have no known scale; set '
      'scale_by_std: false and scale_factor in the config if you know it.'
    )
  return given


def _use_ema(asked, configured: bool, has_ema: bool, path: str, notes) -> bool:
  if asked and not has_ema:
    raise UserError(
      f'{path} has no EMA weights; use --use_ema=false, or leave it out.'
    )
  if asked is not None:
    return asked
  if has_ema and not configured:
    notes.append(
      'The config says use_ema: false, so the raw weights sample, as '
      'released; --use_ema=true takes the averaged ones.'
    )
  if configured and not has_ema:
    notes.append('The file has no EMA weights; the raw ones are used.')
  return has_ema and configured


def _storable(x: np.ndarray) -> np.ndarray:
  """In a type that a checkpoint of JAX arrays keeps."""
  if x.dtype == np.int64:
    return np.asarray(x, np.int32)
  return np.asarray(x, np.float32) if x.dtype == np.float64 else x
