"""What diffusers calls every tensor of our models: one table, read both ways.

Each function lists the rows of one component from the fields of our config, so
nothing here depends on a file, and whatever is missing or too much in one can
be named in full.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
  """One of our arrays, and the tensor or tensors that hold it there.

  Layouts (ours <-> theirs; their files are PyTorch's):
    same     as it is: vectors, embeddings
    dense    [i o] <-> [o i], or as a 1x1 convolution [o i 1 1]
    conv     [k k i o] <-> [o i k k]; a 1x1 may come as [o i]
    linear   [1 1 i o] <-> [o i]; written so, a 1x1 convolution is read too
    qkv      [(i) heads*3*d] <-> three of [heads*d (i)]: ours is fused, and
             holds per head its q, then its k, then its v
  """

  ours: str  # 'down_0_block_0/conv1/kernel'
  theirs: tuple[str, ...]
  layout: str = 'same'
  heads: int = 1

  def read(self, *tensors: np.ndarray) -> np.ndarray:
    """Their tensors -> our array."""
    if self.layout == 'same':
      return tensors[0]
    if self.layout == 'qkv':
      return self._fuse(tensors)
    x = tensors[0]
    spatial = x.shape[2:]
    if self.layout == 'dense':
      if spatial not in ((), (1, 1)):
        raise ValueError(f'{x.shape} is no matrix')
      return x.reshape(x.shape[:2]).T
    if not spatial:
      x = x[:, :, None, None]
    return x.transpose(2, 3, 1, 0)

  def write(self, array: np.ndarray) -> list[np.ndarray]:
    """Our array -> their tensors, contiguous."""
    if self.layout == 'qkv':
      parts = array.reshape(*array.shape[:-1], self.heads, 3, -1)
      tensors = [
        parts[..., i, :].reshape(*array.shape[:-1], -1).T for i in range(3)
      ]
    elif self.layout == 'conv':
      tensors = [array.transpose(3, 2, 0, 1)]
    elif self.layout == 'linear':
      tensors = [array[0, 0].T]
    elif self.layout == 'dense':
      tensors = [array.T]
    else:
      tensors = [array]
    return [np.ascontiguousarray(tensor) for tensor in tensors]

  def _fuse(self, tensors) -> np.ndarray:
    # [heads*d (i) (1 1)] -> [(i) heads d]; a bias has no i.
    split = [
      x.reshape(x.shape[:2]).T.reshape(*x.shape[1:2], self.heads, -1)
      for x in tensors
    ]
    fused = np.stack(split, axis=-2)  # [(i) heads 3 d]
    return fused.reshape(*fused.shape[:-3], -1)


Rows = Iterator[Row]


def _layer(ours: str, theirs: str, layout: str, bias: bool = True) -> Rows:
  yield Row(f'{ours}/kernel', (f'{theirs}.weight',), layout)
  if bias:
    yield Row(f'{ours}/bias', (f'{theirs}.bias',))


def _norm(ours: str, theirs: str) -> Rows:
  yield Row(f'{ours}/scale', (f'{theirs}.weight',))
  yield Row(f'{ours}/bias', (f'{theirs}.bias',))


def unet(config: Config) -> list[Row]:
  """Rows of UNet2DModel or UNet2DConditionModel from our unet section."""
  return list(_unet(config))


def _unet(config: Config) -> Rows:
  c = {'num_res_blocks': 2, 'attention': 'self', 'resblock_updown': False}
  c |= dict(config)
  widths = [c['channels'] * m for m in c['multipliers']]
  last = len(widths) - 1

  yield from _layer('time/dense1', 'time_embedding.linear_1', 'dense')
  yield from _layer('time/dense2', 'time_embedding.linear_2', 'dense')
  yield from _layer('conv_in', 'conv_in', 'conv')
  yield from _norm('norm_out', 'conv_norm_out')
  yield from _layer('conv_out', 'conv_out', 'conv')

  x, skips = c['channels'], [c['channels']]
  for level in range(last + 1):
    there = f'down_blocks.{level}'
    for i in range(c['num_res_blocks']):
      here = f'down_{level}_block_{i}'
      yield from _res_block(here, f'{there}.resnets.{i}', x != widths[level])
      if level in c['attention_levels']:
        yield from _unet_attention(c, f'{here}_attn', f'{there}.attentions.{i}')
      x = widths[level]
      skips.append(x)
    if level < last:
      yield from _resample(c, f'down_{level}_downsample', there, 'downsamplers')
      skips.append(x)

  yield from _res_block('mid_block_0', 'mid_block.resnets.0', False)
  yield from _unet_attention(c, 'mid_attn', 'mid_block.attentions.0')
  yield from _res_block('mid_block_1', 'mid_block.resnets.1', False)

  for level in reversed(range(last + 1)):
    there = f'up_blocks.{last - level}'  # Theirs count from the middle.
    for i in range(c['num_res_blocks'] + 1):
      here = f'up_{level}_block_{i}'
      changes = x + skips.pop() != widths[level]
      yield from _res_block(here, f'{there}.resnets.{i}', changes)
      if level in c['attention_levels']:
        yield from _unet_attention(c, f'{here}_attn', f'{there}.attentions.{i}')
      x = widths[level]
    if level > 0:
      yield from _resample(c, f'up_{level}_upsample', there, 'upsamplers')


def _res_block(ours: str, theirs: str, changes_width: bool) -> Rows:
  yield from _norm(f'{ours}/norm1', f'{theirs}.norm1')
  yield from _layer(f'{ours}/conv1', f'{theirs}.conv1', 'conv')
  yield from _layer(f'{ours}/temb', f'{theirs}.time_emb_proj', 'dense')
  yield from _norm(f'{ours}/norm2', f'{theirs}.norm2')
  yield from _layer(f'{ours}/conv2', f'{theirs}.conv2', 'conv')
  if changes_width:
    yield from _layer(f'{ours}/skip', f'{theirs}.conv_shortcut', 'conv')


def _resample(config: Config, ours: str, theirs: str, kind: str) -> Rows:
  if config['resblock_updown']:
    yield from _res_block(ours, f'{theirs}.{kind}.0', False)
  else:
    yield from _layer(f'{ours}/conv', f'{theirs}.{kind}.0.conv', 'conv')


def _unet_attention(config: Config, ours: str, theirs: str) -> Rows:
  if config['attention'] == 'self':
    yield from _self_attention(config, ours, theirs)
    return
  yield from _norm(f'{ours}/norm', f'{theirs}.norm')
  yield from _layer(f'{ours}/proj_in', f'{theirs}.proj_in', 'conv')
  yield from _layer(f'{ours}/proj_out', f'{theirs}.proj_out', 'conv')
  for i in range(config.get('transformer_depth', 1)):
    here, there = f'{ours}/block_{i}', f'{theirs}.transformer_blocks.{i}'
    for n in (1, 2, 3):
      yield from _norm(f'{here}/norm{n}', f'{there}.norm{n}')
    for n in (1, 2):
      attn = f'{here}/attn{n}', f'{there}.attn{n}'
      for part in 'qkv':
        yield from _layer(
          f'{attn[0]}/{part}', f'{attn[1]}.to_{part}', 'dense', bias=False
        )
      yield from _layer(f'{attn[0]}/out', f'{attn[1]}.to_out.0', 'dense')
    feed = f'{here}/feed_forward'
    yield from _layer(f'{feed}/proj_in', f'{there}.ff.net.0.proj', 'dense')
    yield from _layer(f'{feed}/proj_out', f'{there}.ff.net.2', 'dense')


def _self_attention(config: Config, ours: str, theirs: str) -> Rows:
  heads = config.get('num_heads')
  if heads is None:
    heads = _width_at(config, ours) // config['head_width']
  yield from _norm(f'{ours}/norm', f'{theirs}.group_norm')
  for leaf, theirs_leaf in (('kernel', 'weight'), ('bias', 'bias')):
    names = tuple(f'{theirs}.to_{part}.{theirs_leaf}' for part in 'qkv')
    yield Row(f'{ours}/qkv/{leaf}', names, 'qkv', heads)
  yield from _layer(f'{ours}/proj_out', f'{theirs}.to_out.0', 'dense')


def _width_at(config: Config, ours: str) -> int:
  """Channels of the attention named 'down_1_block_0_attn' or 'mid_attn'."""
  level = -1 if ours.startswith('mid') else int(ours.split('_')[1])
  return config['channels'] * config['multipliers'][level]


def first_stage(config: Config) -> list[Row]:
  """Rows of AutoencoderKL or VQModel from our first_stage section."""
  return list(_first_stage(config))


def _first_stage(config: Config) -> Rows:
  c = {'channels': 128, 'multipliers': (1, 2, 4), 'num_res_blocks': 2}
  c |= {'attention_levels': (), 'mid_attention': True}
  c |= dict(config)
  widths = [c['channels'] * m for m in c['multipliers']]
  last = len(widths) - 1

  yield from _layer('quant_conv', 'quant_conv', 'conv')
  yield from _layer('post_quant_conv', 'post_quant_conv', 'conv')
  if c['name'] == 'vq':
    yield Row('quantize/embedding', ('quantize.embedding.weight',))
  for half in ('encoder', 'decoder'):
    yield from _layer(f'{half}/conv_in', f'{half}.conv_in', 'conv')
    yield from _norm(f'{half}/norm_out', f'{half}.conv_norm_out')
    yield from _layer(f'{half}/conv_out', f'{half}.conv_out', 'conv')
    mid = f'{half}/mid', f'{half}.mid_block'
    yield from _plain_block(f'{mid[0]}_block_1', f'{mid[1]}.resnets.0', False)
    yield from _plain_block(f'{mid[0]}_block_2', f'{mid[1]}.resnets.1', False)
    if c['mid_attention']:
      yield from _one_head(f'{mid[0]}_attn', f'{mid[1]}.attentions.0')

  def level_rows(here, there, level, count, x):
    for j in range(count):
      changes = x != widths[level]
      block = f'{here}_block_{j}', f'{there}.resnets.{j}'
      yield from _plain_block(*block, changes)
      if level in c['attention_levels']:
        yield from _one_head(f'{here}_attn_{j}', f'{there}.attentions.{j}')
      x = widths[level]

  x = c['channels']
  for level in range(last + 1):
    here, there = f'encoder/down_{level}', f'encoder.down_blocks.{level}'
    yield from level_rows(here, there, level, c['num_res_blocks'], x)
    x = widths[level]
    if level < last:
      conv = f'{here}_downsample/conv', f'{there}.downsamplers.0.conv'
      yield from _layer(*conv, 'conv')
  for level in reversed(range(last + 1)):
    here = f'decoder/up_{level}'
    there = f'decoder.up_blocks.{last - level}'
    yield from level_rows(here, there, level, c['num_res_blocks'] + 1, x)
    x = widths[level]
    if level > 0:
      conv = f'{here}_upsample/conv', f'{there}.upsamplers.0.conv'
      yield from _layer(*conv, 'conv')


def _plain_block(ours: str, theirs: str, changes_width: bool) -> Rows:
  for n in (1, 2):
    yield from _norm(f'{ours}/norm{n}', f'{theirs}.norm{n}')
    yield from _layer(f'{ours}/conv{n}', f'{theirs}.conv{n}', 'conv')
  if changes_width:
    yield from _layer(f'{ours}/shortcut', f'{theirs}.conv_shortcut', 'conv')


def _one_head(ours: str, theirs: str) -> Rows:
  yield from _norm(f'{ours}/norm', f'{theirs}.group_norm')
  for part in 'qkv':
    yield from _layer(f'{ours}/{part}', f'{theirs}.to_{part}', 'linear')
  yield from _layer(f'{ours}/proj_out', f'{theirs}.to_out.0', 'linear')


def text(config: Config) -> list[Row]:
  """Rows of LDMBertModel from our text task's section.

  Its `to_logits` is used by nobody and has no row.
  """
  return list(_text(config))


def _text(config: Config) -> Rows:
  yield Row('transformer/tokens/embedding', ('model.embed_tokens.weight',))
  yield Row(
    'transformer/positions/embedding', ('model.embed_positions.weight',)
  )
  yield from _norm('transformer/norm', 'model.layer_norm')
  for i in range(config['depth']):
    here, there = f'transformer/layer_{i}', f'model.layers.{i}'
    yield from _norm(f'{here}_norm1', f'{there}.self_attn_layer_norm')
    yield from _norm(f'{here}_norm2', f'{there}.final_layer_norm')
    for part in 'qkv':
      name = f'{there}.self_attn.{part}_proj'
      yield from _layer(f'{here}_attn/{part}', name, 'dense', bias=False)
    out = f'{there}.self_attn.out_proj'
    yield from _layer(f'{here}_attn/out', out, 'dense')
    feed = f'{here}_feed_forward'
    yield from _layer(f'{feed}/proj_in', f'{there}.fc1', 'dense')
    yield from _layer(f'{feed}/proj_out', f'{there}.fc2', 'dense')


# Names that diffusers had for the attention of autoencoders and plain U-Nets.
_OLD_ATTENTION = {
  'query': 'to_q',
  'key': 'to_k',
  'value': 'to_v',
  'proj_attn': 'to_out.0',
}


def modern(name: str) -> str:
  """The name that diffusers gives today to a tensor of an older file."""
  parts = name.split('.')
  if len(parts) > 1 and parts[-2] in _OLD_ATTENTION:
    parts[-2] = _OLD_ATTENTION[parts[-2]]
  return '.'.join(parts)
