"""What diffusers calls each parameter, component by component.

Tables are built from our config's sections, as the release's are; only the
names differ, and the attention of a plain U-Net: its q, k and v are three
tensors there and one here (see `fuse`).
"""

from collections.abc import Iterable, Mapping

import numpy as np

from ldm_jax.interop.compvis_names import (
  CONDITIONER,
  FIRST_STAGE_DEFAULTS,
  TOKEN_TRANSFORMER,
  UNET_DEFAULTS,
)
from ldm_jax.interop.names import Row, conv, dense, embedding, norm

# --- The U-Net: UNet2DModel or UNet2DConditionModel. ---


def unet(section: dict, in_channels: int, context: int) -> list[Row]:
  """`context` is the width that cross-attention reads (0: none)."""
  s = {**UNET_DEFAULTS, **section}
  ours, c = 'model/unet', s['channels']
  widths = [c * m for m in s['multipliers']]
  last = len(widths) - 1
  rows = dense(f'{ours}/time/dense1', 'time_embedding.linear_1', c, 4 * c)
  rows += dense(f'{ours}/time/dense2', 'time_embedding.linear_2', 4 * c, 4 * c)
  rows += conv(f'{ours}/conv_in', 'conv_in', in_channels, c)

  def block(name, there, i, level, ci):
    out = _res_block(f'{ours}/{name}', f'{there}.resnets.{i}', s, ci,
                     widths[level])  # fmt: skip
    if level in s['attention_levels']:
      out += _attention(f'{ours}/{name}_attn', f'{there}.attentions.{i}', s,
                        widths[level], context)  # fmt: skip
    return out

  def resample(name, there, width):
    if s['resblock_updown']:
      return _res_block(f'{ours}/{name}', there, s, width, width)
    return conv(f'{ours}/{name}/conv', f'{there}.conv', width, width)

  width, skips = c, [c]
  for level in range(last + 1):
    there = f'down_blocks.{level}'
    for i in range(s['num_res_blocks']):
      rows += block(f'down_{level}_block_{i}', there, i, level, width)
      width = widths[level]
      skips.append(width)
    if level < last:
      name = f'down_{level}_downsample'
      rows += resample(name, f'{there}.downsamplers.0', width)
      skips.append(width)

  middle = 'mid_block'
  for i in (0, 1):
    there = f'{middle}.resnets.{i}'
    rows += _res_block(f'{ours}/mid_block_{i}', there, s, width, width)
  there = f'{middle}.attentions.0'
  rows += _attention(f'{ours}/mid_attn', there, s, width, context)

  for level in reversed(range(last + 1)):
    there = f'up_blocks.{last - level}'  # Theirs count from the middle.
    for i in range(s['num_res_blocks'] + 1):
      ci = width + skips.pop()
      rows += block(f'up_{level}_block_{i}', there, i, level, ci)
      width = widths[level]
    if level > 0:
      rows += resample(f'up_{level}_upsample', f'{there}.upsamplers.0', width)

  rows += norm(f'{ours}/norm_out', 'conv_norm_out', c)
  return rows + conv(f'{ours}/conv_out', 'conv_out', c, s['out_channels'])


def _res_block(ours, theirs, s, ci, co) -> list[Row]:
  temb = co * (2 if s['scale_shift_norm'] else 1)
  rows = norm(f'{ours}/norm1', f'{theirs}.norm1', ci)
  rows += conv(f'{ours}/conv1', f'{theirs}.conv1', ci, co)
  name = f'{theirs}.time_emb_proj'
  rows += dense(f'{ours}/temb', name, 4 * s['channels'], temb)
  rows += norm(f'{ours}/norm2', f'{theirs}.norm2', co)
  rows += conv(f'{ours}/conv2', f'{theirs}.conv2', co, co)
  if ci != co:
    rows += conv(f'{ours}/skip', f'{theirs}.conv_shortcut', ci, co, 1)
  return rows


def _attention(ours, theirs, s, c, context) -> list[Row]:
  if s['attention'] == 'self':
    rows = norm(f'{ours}/norm', f'{theirs}.group_norm', c)
    rows += dense(f'{ours}/qkv', f'{theirs}.{_FUSED}', c, 3 * c)
    return rows + dense(f'{ours}/proj_out', f'{theirs}.to_out.0', c, c)
  rows = norm(f'{ours}/norm', f'{theirs}.norm', c)
  rows += conv(f'{ours}/proj_in', f'{theirs}.proj_in', c, c, 1)
  for i in range(s['transformer_depth']):
    here, there = f'{ours}/block_{i}', f'{theirs}.transformer_blocks.{i}'
    for k in (1, 2, 3):
      rows += norm(f'{here}/norm{k}', f'{there}.norm{k}', c)
    for k, width in ((1, c), (2, context or c)):
      attn = f'{here}/attn{k}', f'{there}.attn{k}'
      rows += dense(f'{attn[0]}/q', f'{attn[1]}.to_q', c, c, bias=False)
      rows += dense(f'{attn[0]}/k', f'{attn[1]}.to_k', width, c, bias=False)
      rows += dense(f'{attn[0]}/v', f'{attn[1]}.to_v', width, c, bias=False)
      rows += dense(f'{attn[0]}/out', f'{attn[1]}.to_out.0', c, c)
    feed = f'{here}/feed_forward'
    rows += dense(f'{feed}/proj_in', f'{there}.ff.net.0.proj', c, 8 * c)
    rows += dense(f'{feed}/proj_out', f'{there}.ff.net.2', 4 * c, c)
  return rows + conv(f'{ours}/proj_out', f'{theirs}.proj_out', c, c, 1)


# --- First stages: AutoencoderKL or VQModel. ---


def first_stage(section: dict) -> list[Row]:
  """The KL or VQ autoencoder."""
  s = {**FIRST_STAGE_DEFAULTS, **section}
  ours, z, d = 'first_stage', s['z_channels'], s['embed_dim']
  k = 2 if s['name'] == 'kl' else 1  # Moments per channel.
  widths = [s['channels'] * m for m in s['multipliers']]
  last = len(widths) - 1
  rows = conv(f'{ours}/quant_conv', 'quant_conv', k * z, k * d, 1)
  rows += conv(f'{ours}/post_quant_conv', 'post_quant_conv', d, z, 1)
  if s['name'] == 'vq':
    codebook = f'{ours}/quantize', 'quantize.embedding'
    rows += embedding(*codebook, s['num_codes'], d)

  def level_rows(here, there, level, count, ci):
    out = []
    for j in range(count):
      block = f'{here}_block_{j}', f'{there}.resnets.{j}'
      out += _plain_block(*block, ci, widths[level])
      ci = widths[level]
      if level in s['attention_levels']:
        out += _one_head(f'{here}_attn_{j}', f'{there}.attentions.{j}', ci)
    return out

  width = s['channels']
  rows += conv(
    f'{ours}/encoder/conv_in', 'encoder.conv_in', s['in_channels'], width
  )
  for i in range(last + 1):
    here, there = f'{ours}/encoder/down_{i}', f'encoder.down_blocks.{i}'
    rows += level_rows(here, there, i, s['num_res_blocks'], width)
    width = widths[i]
    if i < last:
      name = f'{there}.downsamplers.0.conv'
      rows += conv(f'{here}_downsample/conv', name, width, width)
  rows += _ends(s, 'encoder', width, k * z)

  rows += conv(f'{ours}/decoder/conv_in', 'decoder.conv_in', z, width)
  for i in reversed(range(last + 1)):
    here, there = f'{ours}/decoder/up_{i}', f'decoder.up_blocks.{last - i}'
    rows += level_rows(here, there, i, s['num_res_blocks'] + 1, width)
    width = widths[i]
    if i > 0:
      name = f'{there}.upsamplers.0.conv'
      rows += conv(f'{here}_upsample/conv', name, width, width)
  return rows + _ends(s, 'decoder', width, s['out_channels'])


def _ends(s: dict, half: str, width: int, co: int) -> list[Row]:
  """The middle and the last convolution of an encoder or a decoder."""
  ours = f'first_stage/{half}'
  middle = s['channels'] * s['multipliers'][-1]
  rows = norm(f'{ours}/norm_out', f'{half}.conv_norm_out', width)
  rows += conv(f'{ours}/conv_out', f'{half}.conv_out', width, co)
  for i in (0, 1):
    block = f'{ours}/mid_block_{i + 1}', f'{half}.mid_block.resnets.{i}'
    rows += _plain_block(*block, middle, middle)
  if s['mid_attention']:
    there = f'{half}.mid_block.attentions.0'
    rows += _one_head(f'{ours}/mid_attn', there, middle)
  return rows


def _plain_block(ours, theirs, ci, co) -> list[Row]:
  rows = norm(f'{ours}/norm1', f'{theirs}.norm1', ci)
  rows += conv(f'{ours}/conv1', f'{theirs}.conv1', ci, co)
  rows += norm(f'{ours}/norm2', f'{theirs}.norm2', co)
  rows += conv(f'{ours}/conv2', f'{theirs}.conv2', co, co)
  if ci != co:
    rows += conv(f'{ours}/shortcut', f'{theirs}.conv_shortcut', ci, co, 1)
  return rows


def _one_head(ours, theirs, c) -> list[Row]:
  rows = norm(f'{ours}/norm', f'{theirs}.group_norm', c)
  for here, there in (('q', 'to_q'), ('k', 'to_k'), ('v', 'to_v'),
                      ('proj_out', 'to_out.0')):  # fmt: skip
    name = f'{theirs}.{there}'
    rows.append(Row(f'{ours}/{here}/kernel', f'{name}.weight', (c, c),
                    'pointwise'))  # fmt: skip
    rows.append(Row(f'{ours}/{here}/bias', f'{name}.bias', (c,)))
  return rows


# --- The text encoder LDMBertModel; CLIP's names are in clip_names. ---


def text(task: dict) -> list[Row]:
  """The paper's text encoder, as LDMBertModel."""
  t = {**TOKEN_TRANSFORMER['text'], **task}
  ours, width = 'model/conditioner/transformer', t['width']
  inner = t['num_heads'] * t['head_width']
  table = lambda name, there, size: embedding(
    f'{ours}/{name}', f'model.{there}', size, width
  )
  rows = table('tokens', 'embed_tokens', t['vocab_size'])
  rows += table('positions', 'embed_positions', t['length'])
  for i in range(t['depth']):
    here, there = f'{ours}/layer_{i}', f'model.layers.{i}'
    rows += norm(f'{here}_norm1', f'{there}.self_attn_layer_norm', width)
    attn = f'{here}_attn', f'{there}.self_attn'
    for k in 'qkv':
      name = f'{attn[1]}.{k}_proj'
      rows += dense(f'{attn[0]}/{k}', name, width, inner, bias=False)
    rows += dense(f'{attn[0]}/out', f'{attn[1]}.out_proj', inner, width)
    rows += norm(f'{here}_norm2', f'{there}.final_layer_norm', width)
    feed = f'{here}_feed_forward'
    rows += dense(f'{feed}/proj_in', f'{there}.fc1', width, 4 * width)
    rows += dense(f'{feed}/proj_out', f'{there}.fc2', 4 * width, width)
  return rows + norm(f'{ours}/norm', 'model.layer_norm', width)


def text_unused(task: dict) -> list[Row]:
  """What LDMBertModel carries and nothing reads.

  Items keep such tensors under the release's names, in 'carried'.
  """
  t = {**TOKEN_TRANSFORMER['text'], **task}
  ours = f'carried/{CONDITIONER}transformer.to_logits'.replace('.', '/')
  return [
    Row(f'{ours}/weight', 'to_logits.weight', (t['vocab_size'], t['width'])),
    Row(f'{ours}/bias', 'to_logits.bias', (t['vocab_size'],)),
  ]


# --- Three tensors there, one here. ---

_FUSED = 'to_qkv'


def parts(row: Row) -> list[Row]:
  """The rows of the file that hold `row`: itself, or its q, k and v."""
  if f'.{_FUSED}.' not in row.theirs:
    return [row]
  shape = (row.shape[0] // 3, *row.shape[1:])
  return [Row(row.ours, name, shape, row.layout) for name in _split_names(row)]


def _split_names(row: Row) -> list[str]:
  return [row.theirs.replace(_FUSED, f'to_{k}') for k in 'qkv']


def fuse(
  rows: Iterable[Row], tensors: Mapping[str, np.ndarray], section: dict
) -> dict[str, np.ndarray]:
  """Joins q, k and v [heads*d (i)] to [heads*3*d (i)], as `rows` have them.

  The fused rows go by head, and inside a head by q, k and v. `section` is the
  U-Net's and says how many heads there are.
  """
  tensors = dict(tensors)
  for row in rows:
    if f'.{_FUSED}.' not in row.theirs:
      continue
    heads = _heads(row, section)
    found = [tensors.pop(name, None) for name in _split_names(row)]
    if any(x is None for x in found):  # Only where what fits is loaded.
      continue
    split = [x.reshape(heads, -1, *x.shape[1:]) for x in found]
    tensors[row.theirs] = np.stack(split, axis=1).reshape(row.shape)
  return tensors


def split(
  rows: Iterable[Row], tensors: Mapping[str, np.ndarray], section: dict
) -> dict[str, np.ndarray]:
  """The inverse of `fuse`."""
  tensors = dict(tensors)
  for row in rows:
    if f'.{_FUSED}.' not in row.theirs:
      continue
    x = np.asarray(tensors.pop(row.theirs))
    by_head = x.reshape(_heads(row, section), 3, -1, *x.shape[1:])
    for i, name in enumerate(_split_names(row)):
      tensors[name] = by_head[:, i].reshape(-1, *x.shape[1:])
  return tensors


def _heads(row: Row, section: dict) -> int:
  return section.get('num_heads') or (
    row.shape[0] // 3 // section['head_width']
  )


# --- Files of older versions. ---

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


def modernise(
  rows: Iterable[Row], tensors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Today's names, and matrices for what came as 1x1 convolutions, or back."""
  shapes = {part.theirs: part.shape for row in rows for part in parts(row)}
  result = {}
  for name, x in tensors.items():
    name = modern(name)
    shape = shapes.get(name, x.shape)
    squeezed = x.shape[:2] == shape[:2] and {1} >= set(x.shape[2:] + shape[2:])
    result[name] = x.reshape(shape) if squeezed else x
  return result
