"""Random state_dicts of the release's models, without torch."""

import numpy as np

from ldm_jax.interop import (
  clip_names,
  compvis,
  compvis_buffers,
  compvis_config,
  compvis_names,
)

CLIP_SIZES = {
  'vocab_size': 120, 'length': 9, 'width': 24, 'depth': 2, 'ffn_width': 96,
}  # fmt: skip


def rows(content: dict) -> list:
  """Every row of the checkpoint that this config would have saved."""
  read = compvis_config.read(content)
  config = read.config
  if _has_clip(config):
    config['task'] |= {**CLIP_SIZES, 'num_heads': 1}
  table = compvis_names.table(config)
  ema = compvis_names.ema(table) if read.use_ema else []
  return table + ema + compvis_names.unused(config)


def random_state(content: dict, seed: int = 0) -> dict[str, np.ndarray]:
  """What such a checkpoint holds: nothing is zero, norms are about one."""
  rng = np.random.default_rng(seed)
  read = compvis_config.read(content)
  state = {
    row.theirs: _weights(rng, row.theirs, row.shape) for row in rows(content)
  }
  if 'unet' not in read.config:
    return state
  state |= compvis_buffers.buffers(read.config['schedule'])
  if read.use_ema:
    state['model_ema.decay'] = np.float32(0.9999)
    state['model_ema.num_updates'] = np.int32(1234)
  if read.scale_by_std:
    state['scale_factor'] = np.float32(0.7)
  task = read.config['task']['name']
  if task == 'inpainting':
    state |= {
      name.replace('first_stage_model', 'cond_stage_model'): x
      for name, x in state.items()
      if name.startswith('first_stage_model')
    }
  if _has_clip(read.config):
    length = CLIP_SIZES['length']
    name = 'cond_stage_model.transformer.' + clip_names.POSITION_IDS
    state[name] = np.arange(length, dtype=np.int64)[None]
  return state


def _has_clip(config: dict) -> bool:
  return config.get('task', {}).get('name', '').endswith('clip_text')


def _weights(rng, name: str, shape: tuple[int, ...]) -> np.ndarray:
  x = rng.standard_normal(shape, np.float32)
  if len(shape) > 1:
    return x / np.float32(np.sqrt(np.prod(shape[1:])))
  scale = name.endswith('weight') and 'norm' in name
  return np.float32(1) + x / 10 if scale else x / 10


__all__ = ['compvis', 'random_state', 'rows']
