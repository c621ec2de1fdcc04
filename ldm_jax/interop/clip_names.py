"""What transformers calls the parameters of CLIP's text encoder.

The same names stand in Stable Diffusion's single file and in a diffusers
folder, behind different prefixes.
"""

from collections.abc import Mapping

import numpy as np

from ldm_jax.interop.names import Row, dense, embedding, norm

# OpenAI's ViT-L/14, which Stable Diffusion 1.x names.
DEFAULTS = {
  'vocab_size': 49408, 'length': 77, 'width': 768, 'depth': 12,
  'num_heads': 12, 'ffn_width': 0,
}  # fmt: skip
POSITION_IDS = 'text_model.embeddings.position_ids'  # A buffer of older files.


def text_encoder(
  task: Mapping, prefix: str = '', ours: str = 'model/conditioner/transformer'
) -> list[Row]:
  """The rows of a CLIPTextModel with the sizes of a `task` section."""
  given = {k: v for k, v in task.items() if v is not None}
  task = {**DEFAULTS, **given}
  width, root = task['width'], f'{prefix}text_model'
  table = f'{root}.embeddings'
  rows = embedding(
    f'{ours}/tokens', f'{table}.token_embedding', task['vocab_size'], width
  )
  rows += embedding(
    f'{ours}/positions', f'{table}.position_embedding', task['length'], width
  )
  inner = task['ffn_width'] or 4 * width
  for i in range(task['depth']):
    here, there = f'{ours}/layer_{i}', f'{root}.encoder.layers.{i}'
    rows += norm(f'{here}_norm1', f'{there}.layer_norm1', width)
    for k in ('q', 'k', 'v', 'out'):
      name = f'{there}.self_attn.{k}_proj'
      rows += dense(f'{here}_attn/{k}', name, width, width)
    rows += norm(f'{here}_norm2', f'{there}.layer_norm2', width)
    rows += dense(f'{here}_fc1', f'{there}.mlp.fc1', width, inner)
    rows += dense(f'{here}_fc2', f'{there}.mlp.fc2', inner, width)
  return rows + norm(f'{ours}/norm', f'{root}.final_layer_norm', width)


def sizes(tensors: Mapping[str, np.ndarray], prefix: str = '') -> dict:
  """The fields of `task` that the tensors' shapes decide.

  The number of heads is not among them: all of OpenAI's have width 64, so
  that is assumed, and one head of a narrower model.
  """
  root = f'{prefix}text_model.'
  tokens = tensors.get(f'{root}embeddings.token_embedding.weight')
  positions = tensors.get(f'{root}embeddings.position_embedding.weight')
  inner = tensors.get(f'{root}encoder.layers.0.mlp.fc1.weight')
  found: dict = {}
  if tokens is not None and tokens.ndim == 2:
    vocab_size, width = tokens.shape
    found |= {
      'vocab_size': vocab_size,
      'width': width,
      'num_heads': max(width // 64, 1),
    }
  if positions is not None and positions.ndim == 2:
    found['length'] = positions.shape[0]
  if inner is not None and inner.ndim == 2:
    found['ffn_width'] = inner.shape[0]
  layers = f'{root}encoder.layers.'
  numbers = {
    name[len(layers) :].partition('.')[0]
    for name in tensors
    if name.startswith(layers)
  }
  found['depth'] = len([n for n in numbers if n.isdigit()])
  return found
