"""What the authors' release calls each parameter.

Tables are built from our config's sections, and hold the shapes too: an
import is checked against them before a network is built.
"""

import itertools
from collections.abc import Mapping

from ldm_jax.interop import clip_names, masked_image
from ldm_jax.interop.names import Row, conv, dense, embedding, norm

UNET = 'model.diffusion_model.'
FIRST_STAGE = 'first_stage_model.'
CONDITIONER = 'cond_stage_model.'
EMA = 'model_ema.'

# Defaults of our fields, where a section leaves them out.
FIRST_STAGE_DEFAULTS = {
  'channels': 128, 'multipliers': (1, 2, 4), 'num_res_blocks': 2,
  'attention_levels': (), 'mid_attention': True, 'in_channels': 3,
  'out_channels': 3,
}  # fmt: skip
UNET_DEFAULTS = {
  'num_res_blocks': 2, 'attention': 'self', 'transformer_depth': 1,
  'scale_shift_norm': False, 'resblock_updown': False,
}  # fmt: skip
_HEADS = {'num_heads': 8, 'head_width': 64}
_BERT = {'vocab_size': 30522, 'length': 77, **_HEADS}
TOKEN_TRANSFORMER = {
  'text': _BERT,
  'inpainting_text': _BERT,
  'layout': {'vocab_size': 8192, 'length': 92, **_HEADS},
}


def filled(defaults: Mapping, section: Mapping) -> dict:
  """The section with defaults for what it leaves out or unset."""
  return {**defaults, **{k: v for k, v in section.items() if v is not None}}


def table(config: dict) -> list[Row]:
  """The rows of a whole checkpoint of this config, without EMA.

  `config` holds the sections `first_stage` and, for diffusion, `unet`,
  `task` and `loss`, as build.py reads them.
  """
  if 'unet' not in config:
    return first_stage(config['first_stage'])
  rows = unet(config['unet'], in_channels(config), context_width(config))
  rows += first_stage(config['first_stage'], FIRST_STAGE)
  rows += conditioner(config['task'])
  if config.get('loss', {}).get('learn_logvar'):
    steps = config['schedule']['num_timesteps']
    rows.append(Row('model/logvar', 'logvar', (steps,)))
  return rows


def ema(rows: list[Row]) -> list[Row]:
  """The rows of the U-Net's moving average: names with every dot removed."""
  return [
    Row(
      row.ours.replace('model/unet/', 'ema/', 1),
      EMA + row.theirs.removeprefix('model.').replace('.', ''),
      row.shape,
      row.layout,
    )
    for row in rows
    if row.ours.startswith('model/unet/')
  ]


# --- First stages. ---


def first_stage(section: dict, prefix: str = '') -> list[Row]:
  """The KL or VQ autoencoder; the identity has no parameters."""
  if section['name'] == 'identity':
    return []
  s = filled(FIRST_STAGE_DEFAULTS, section)
  z, d = s['z_channels'], s['embed_dim']
  k = 2 if s['name'] == 'kl' else 1  # Moments per channel.
  ours = 'first_stage'
  rows = _encoder(s, f'{ours}/encoder', prefix + 'encoder', k * z)
  rows += _decoder(s, f'{ours}/decoder', prefix + 'decoder')
  if s['name'] == 'vq':
    name = prefix + 'quantize.embedding.weight'
    rows.append(Row(f'{ours}/quantize/embedding', name, (s['num_codes'], d)))
  rows += conv(f'{ours}/quant_conv', prefix + 'quant_conv', k * z, k * d, 1)
  rows += conv(f'{ours}/post_quant_conv', prefix + 'post_quant_conv', d, z, 1)
  return rows


def _encoder(s: dict, ours: str, theirs: str, co: int) -> list[Row]:
  last = len(s['multipliers']) - 1
  rows = conv(
    f'{ours}/conv_in', f'{theirs}.conv_in', s['in_channels'], s['channels']
  )
  width = s['channels']
  for i, multiplier in enumerate(s['multipliers']):
    for j in range(s['num_res_blocks']):
      there = f'{theirs}.down.{i}'
      rows += _first_stage_block(
        f'{ours}/down_{i}_block_{j}',
        f'{there}.block.{j}',
        width,
        s['channels'] * multiplier,
      )
      width = s['channels'] * multiplier
      if i in s['attention_levels']:
        rows += _first_stage_attention(
          f'{ours}/down_{i}_attn_{j}', f'{there}.attn.{j}', width
        )
    if i < last:
      rows += conv(
        f'{ours}/down_{i}_downsample/conv',
        f'{theirs}.down.{i}.downsample.conv',
        width,
        width,
      )
  rows += _first_stage_middle(s, ours, theirs, width)
  rows += norm(f'{ours}/norm_out', f'{theirs}.norm_out', width)
  return rows + conv(f'{ours}/conv_out', f'{theirs}.conv_out', width, co)


def _decoder(s: dict, ours: str, theirs: str) -> list[Row]:
  width = s['channels'] * s['multipliers'][-1]
  rows = conv(f'{ours}/conv_in', f'{theirs}.conv_in', s['z_channels'], width)
  rows += _first_stage_middle(s, ours, theirs, width)
  for i in reversed(range(len(s['multipliers']))):
    there = f'{theirs}.up.{i}'
    out = s['channels'] * s['multipliers'][i]
    for j in range(s['num_res_blocks'] + 1):
      rows += _first_stage_block(
        f'{ours}/up_{i}_block_{j}', f'{there}.block.{j}', width, out
      )
      width = out
      if i in s['attention_levels']:
        rows += _first_stage_attention(
          f'{ours}/up_{i}_attn_{j}', f'{there}.attn.{j}', width
        )
    if i > 0:
      rows += conv(
        f'{ours}/up_{i}_upsample/conv', f'{there}.upsample.conv', width, width
      )
  rows += norm(f'{ours}/norm_out', f'{theirs}.norm_out', width)
  return rows + conv(
    f'{ours}/conv_out', f'{theirs}.conv_out', width, s['out_channels']
  )


def _first_stage_middle(s, ours, theirs, width) -> list[Row]:
  block = lambda k: _first_stage_block(
    f'{ours}/mid_block_{k}', f'{theirs}.mid.block_{k}', width, width
  )
  attention = _first_stage_attention(
    f'{ours}/mid_attn', f'{theirs}.mid.attn_1', width
  )
  return block(1) + (attention if s['mid_attention'] else []) + block(2)


def _first_stage_block(ours, theirs, ci, co) -> list[Row]:
  rows = norm(f'{ours}/norm1', f'{theirs}.norm1', ci)
  rows += conv(f'{ours}/conv1', f'{theirs}.conv1', ci, co)
  rows += norm(f'{ours}/norm2', f'{theirs}.norm2', co)
  rows += conv(f'{ours}/conv2', f'{theirs}.conv2', co, co)
  if ci != co:
    rows += conv(f'{ours}/shortcut', f'{theirs}.nin_shortcut', ci, co, 1)
  return rows


def _first_stage_attention(ours, theirs, c) -> list[Row]:
  rows = norm(f'{ours}/norm', f'{theirs}.norm', c)
  for name in ('q', 'k', 'v', 'proj_out'):
    rows += conv(f'{ours}/{name}', f'{theirs}.{name}', c, c, 1)
  return rows


# --- The U-Net. ---


def unet(section: dict, in_channels: int, context: int) -> list[Row]:
  """`context` is the width that cross-attention reads (0: none)."""
  s = filled(UNET_DEFAULTS, section)
  ours, theirs = 'model/unet', UNET
  c, multipliers, depth = s['channels'], s['multipliers'], s['num_res_blocks']
  last = len(multipliers) - 1
  rows = dense(f'{ours}/time/dense1', theirs + 'time_embed.0', c, 4 * c)
  rows += dense(f'{ours}/time/dense2', theirs + 'time_embed.2', 4 * c, 4 * c)
  rows += conv(f'{ours}/conv_in', theirs + 'input_blocks.0.0', in_channels, c)

  def block(name, there, level, ci):
    """A residual block with its attention, and where a sampler would sit."""
    co = c * multipliers[level]
    out = _res_block(f'{ours}/{name}', f'{there}.0', s, ci, co)
    if level not in s['attention_levels']:
      return out, f'{there}.1'
    return out + _attention(
      f'{ours}/{name}_attn', f'{there}.1', s, co, context
    ), f'{there}.2'

  def resample(name, there, inner, width):
    if s['resblock_updown']:
      return _res_block(f'{ours}/{name}', there, s, width, width)
    return conv(f'{ours}/{name}/conv', f'{there}.{inner}', width, width)

  place, width, skips = itertools.count(1), c, [c]
  for level in range(last + 1):
    for i in range(depth):
      there = f'{theirs}input_blocks.{next(place)}'
      rows += block(f'down_{level}_block_{i}', there, level, width)[0]
      width = c * multipliers[level]
      skips.append(width)
    if level < last:
      there = f'{theirs}input_blocks.{next(place)}.0'
      rows += resample(f'down_{level}_downsample', there, 'op', width)
      skips.append(width)

  middle = theirs + 'middle_block'
  rows += _res_block(f'{ours}/mid_block_0', f'{middle}.0', s, width, width)
  rows += _attention(f'{ours}/mid_attn', f'{middle}.1', s, width, context)
  rows += _res_block(f'{ours}/mid_block_1', f'{middle}.2', s, width, width)

  place = itertools.count()
  for level in reversed(range(last + 1)):
    for i in range(depth + 1):
      there = f'{theirs}output_blocks.{next(place)}'
      more, after = block(
        f'up_{level}_block_{i}', there, level, width + skips.pop()
      )
      rows += more
      width = c * multipliers[level]
    if level > 0:
      # It sits in the level's last block, after the attention.
      rows += resample(f'up_{level}_upsample', after, 'conv', width)

  rows += norm(f'{ours}/norm_out', theirs + 'out.0', c)
  return rows + conv(f'{ours}/conv_out', theirs + 'out.2', c, s['out_channels'])


def _res_block(ours, theirs, s, ci, co) -> list[Row]:
  rows = norm(f'{ours}/norm1', f'{theirs}.in_layers.0', ci)
  rows += conv(f'{ours}/conv1', f'{theirs}.in_layers.2', ci, co)
  temb = co * (2 if s['scale_shift_norm'] else 1)
  rows += dense(
    f'{ours}/temb', f'{theirs}.emb_layers.1', 4 * s['channels'], temb
  )
  rows += norm(f'{ours}/norm2', f'{theirs}.out_layers.0', co)
  rows += conv(f'{ours}/conv2', f'{theirs}.out_layers.3', co, co)
  if ci != co:
    rows += conv(f'{ours}/skip', f'{theirs}.skip_connection', ci, co, 1)
  return rows


def _attention(ours, theirs, s, c, context) -> list[Row]:
  rows = norm(f'{ours}/norm', f'{theirs}.norm', c)
  if s['attention'] == 'self':
    # The fused projection's rows go by head, then q, k, v: ours do too.
    rows += dense(f'{ours}/qkv', f'{theirs}.qkv', c, 3 * c, layout='dense_1d')
    return rows + dense(
      f'{ours}/proj_out', f'{theirs}.proj_out', c, c, layout='dense_1d'
    )
  rows += conv(f'{ours}/proj_in', f'{theirs}.proj_in', c, c, 1)
  for i in range(s['transformer_depth']):
    here, there = f'{ours}/block_{i}', f'{theirs}.transformer_blocks.{i}'
    rows += _qkv(f'{here}/attn1', f'{there}.attn1', c, c, c, 'to_out.0')
    rows += dense(
      f'{here}/feed_forward/proj_in', f'{there}.ff.net.0.proj', c, 8 * c
    )
    rows += dense(
      f'{here}/feed_forward/proj_out', f'{there}.ff.net.2', 4 * c, c
    )
    rows += _qkv(
      f'{here}/attn2', f'{there}.attn2', c, context or c, c, 'to_out.0'
    )
    for k in (1, 2, 3):
      rows += norm(f'{here}/norm{k}', f'{there}.norm{k}', c)
  return rows + conv(f'{ours}/proj_out', f'{theirs}.proj_out', c, c, 1)


def _qkv(ours, theirs, c, context, inner, out) -> list[Row]:
  rows = dense(f'{ours}/q', f'{theirs}.to_q', c, inner, bias=False)
  rows += dense(f'{ours}/k', f'{theirs}.to_k', context, inner, bias=False)
  rows += dense(f'{ours}/v', f'{theirs}.to_v', context, inner, bias=False)
  return rows + dense(f'{ours}/out', f'{theirs}.{out}', inner, c)


# --- Conditioners, by task. ---


def conditioner(task: dict) -> list[Row]:
  """The rows of a task's conditioner; many have none."""
  ours, theirs = 'model/conditioner', CONDITIONER
  if task['name'] == 'class_label':
    return embedding(
      f'{ours}/embedding',
      theirs + 'embedding',
      task['num_classes'],
      task['width'],
    )
  if task['name'] in TOKEN_TRANSFORMER:
    return _token_transformer(
      task, f'{ours}/transformer', theirs + 'transformer'
    )
  if masked_image.encoder_of(task['name']) == 'clip_text':
    return clip_names.text_encoder(task, theirs + 'transformer.')
  if task['name'] == 'semantic':
    return conv(
      f'{ours}/channel_mapper',
      theirs + 'channel_mapper',
      task['num_classes'],
      task.get('channels', 3),
      1,
      bias=False,
    )
  return []


def _token_transformer(task: dict, ours: str, theirs: str) -> list[Row]:
  t = filled(TOKEN_TRANSFORMER[task['name']], task)
  width, inner = t['width'], t['num_heads'] * t['head_width']
  rows = embedding(
    f'{ours}/tokens', f'{theirs}.token_emb', t['vocab_size'], width
  )
  rows += embedding(
    f'{ours}/positions', f'{theirs}.pos_emb.emb', t['length'], width
  )
  for i in range(t['depth']):
    here, layers = f'{ours}/layer_{i}', f'{theirs}.attn_layers.layers'
    attention, feed = f'{layers}.{2 * i}', f'{layers}.{2 * i + 1}'
    rows += norm(f'{here}_norm1', f'{attention}.0', width)
    rows += _qkv(
      f'{here}_attn', f'{attention}.1', width, width, inner, 'to_out'
    )
    rows += norm(f'{here}_norm2', f'{feed}.0', width)
    rows += dense(
      f'{here}_feed_forward/proj_in', f'{feed}.1.net.0.0', width, 4 * width
    )
    rows += dense(
      f'{here}_feed_forward/proj_out', f'{feed}.1.net.2', 4 * width, width
    )
  return rows + norm(f'{ours}/norm', f'{theirs}.norm', width)


def unused(config: dict) -> list[Row]:
  """Tensors that the release's conditioner carries and nothing reads.

  Their `ours` is empty. An export writes them as zeros where the workdir has
  none to give back.
  """
  task = config.get('task', {})
  if task.get('name') not in TOKEN_TRANSFORMER:
    return []
  t = filled(TOKEN_TRANSFORMER[task['name']], task)
  name = CONDITIONER + 'transformer.to_logits'
  return [
    Row('', f'{name}.weight', (t['vocab_size'], t['width'])),
    Row('', f'{name}.bias', (t['vocab_size'],)),
  ]


def context_width(config: dict) -> int:
  """Width of the context that cross-attention reads; 0 where there is none."""
  task = config['task']
  if masked_image.encoder_of(task['name']) == 'clip_text':
    task = filled(clip_names.DEFAULTS, task)
  return task.get('width', 0)


def latent_channels(first_stage: dict) -> int:
  """Of an autoencoder's code; of an identity's images."""
  return first_stage.get('embed_dim', first_stage.get('channels', 3))


def in_channels(config: dict) -> int:
  """The U-Net's input: the latent, and what the task concatenates to it."""
  task, latent = config['task'], latent_channels(config['first_stage'])
  if task['name'] in masked_image.TASKS:
    return latent + latent + 1  # The masked image's latent, and the mask.
  return latent + {
    'semantic': task.get('channels', 3),
    'super_resolution': 3,  # The low-resolution image, as it is.
  }.get(task['name'], 0)
