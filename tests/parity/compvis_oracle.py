"""The release's networks in plain torch functions, from the facts alone.

They read a state_dict by the release's names, so that what is compared with
our modules went through no table of ours. Images here are NCHW.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F


class Weights:
  """A state_dict, and a place in it."""

  def __init__(self, state, prefix=''):
    self.state, self.prefix = state, prefix

  def __getitem__(self, name):
    return Weights(self.state, f'{self.prefix}{name}.')

  def get(self, name):
    return self.state.get(self.prefix + name)

  def __contains__(self, name):
    prefix = f'{self.prefix}{name}.'
    return any(key.startswith(prefix) for key in self.state)

  def linear(self, x):
    return F.linear(x, self.get('weight'), self.get('bias'))

  def conv(self, x, stride=1, padding=None):
    weight = self.get('weight')
    half = (weight.shape[-1] - 1) // 2
    padding = half if padding is None else padding
    return F.conv2d(x, weight, self.get('bias'), stride, padding)

  def group_norm(self, x, eps):
    return F.group_norm(x, 32, self.get('weight'), self.get('bias'), eps)

  def layer_norm(self, x):
    weight = self.get('weight')
    return F.layer_norm(x, weight.shape, weight, self.get('bias'))


def attention(q, k, v, heads, causal=False):
  """q [B N C], k and v [B L C], heads side by side along C."""
  split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)
  q, k, v = split(q), split(k), split(v)
  scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
  if causal:
    n = scores.shape[-1]
    scores = scores + torch.full((n, n), -math.inf).triu(1)
  return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


# --- The first stage. ---


def resnet(w, x):
  h = w['conv1'].conv(F.silu(w['norm1'].group_norm(x, 1e-6)))
  h = w['conv2'].conv(F.silu(w['norm2'].group_norm(h, 1e-6)))
  return (w['nin_shortcut'].conv(x) if 'nin_shortcut' in w else x) + h


def spatial_attention(w, x):
  y = w['norm'].group_norm(x, 1e-6)
  q, k, v = (w[n].conv(y).flatten(2).transpose(1, 2) for n in 'qkv')
  y = attention(q, k, v, 1).transpose(1, 2).reshape(x.shape)
  return x + w['proj_out'].conv(y)


def middle(w, x):
  x = resnet(w['block_1'], x)
  if 'attn_1' in w:
    x = spatial_attention(w['attn_1'], x)
  return resnet(w['block_2'], x)


def level(w, x):
  i = 0
  while f'block.{i}' in w:
    x = resnet(w[f'block.{i}'], x)
    if f'attn.{i}' in w:
      x = spatial_attention(w[f'attn.{i}'], x)
    i += 1
  return x


def encode(w, x):
  """The mean of a KL model, or a VQ model's latent before quantisation."""
  e, i = w['encoder'], 0
  h = e['conv_in'].conv(x)
  while f'down.{i}' in e:
    h = level(e[f'down.{i}'], h)
    if f'down.{i}.downsample' in e:
      h = F.pad(h, (0, 1, 0, 1))
      h = e[f'down.{i}.downsample.conv'].conv(h, stride=2, padding=0)
    i += 1
  h = F.silu(e['norm_out'].group_norm(middle(e['mid'], h), 1e-6))
  h = w['quant_conv'].conv(e['conv_out'].conv(h))
  return h if 'quantize' in w else h.chunk(2, 1)[0]


def decode(w, z):
  if 'quantize' in w:
    codes = w['quantize.embedding'].get('weight')
    rows = z.movedim(1, -1)
    distance = (rows[..., None, :] - codes).square().sum(-1)
    z = codes[distance.argmin(-1)].movedim(-1, 1)
  d = w['decoder']
  h = middle(d['mid'], d['conv_in'].conv(w['post_quant_conv'].conv(z)))
  levels = 0
  while f'up.{levels}' in d:
    levels += 1
  for i in reversed(range(levels)):
    h = level(d[f'up.{i}'], h)
    if f'up.{i}.upsample' in d:
      h = F.interpolate(h, scale_factor=2.0, mode='nearest')
      h = d[f'up.{i}.upsample.conv'].conv(h)
  return d['conv_out'].conv(F.silu(d['norm_out'].group_norm(h, 1e-6)))


# --- The U-Net. ---


def res_block(w, x, emb, resample=None):
  h = F.silu(w['in_layers.0'].group_norm(x, 1e-5))
  if resample == 'up':
    h, x = (F.interpolate(y, scale_factor=2, mode='nearest') for y in (h, x))
  elif resample == 'down':
    h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
  h = w['in_layers.2'].conv(h)
  emb = w['emb_layers.1'].linear(F.silu(emb))[:, :, None, None]
  norm = w['out_layers.0']
  if emb.shape[1] == 2 * h.shape[1]:
    scale, shift = emb.chunk(2, 1)
    h = norm.group_norm(h, 1e-5) * (1 + scale) + shift
  else:
    h = norm.group_norm(h + emb, 1e-5)
  h = w['out_layers.3'].conv(F.silu(h))
  skip = w['skip_connection']
  return h + (skip.conv(x) if 'skip_connection' in w else x)


def attend(w, x, context, p):
  c = x.shape[1]
  heads = p.get('num_heads', -1)
  if p.get('num_head_channels', -1) != -1:
    heads = c // p['num_head_channels']
  if 'transformer_blocks' in w:
    return spatial_transformer(w, x, context, heads)
  y = w['norm'].group_norm(x, 1e-5).flatten(2)
  qkv = F.conv1d(y, w['qkv'].get('weight'), w['qkv'].get('bias'))
  # Each head's rows: its q, then its k, then its v.
  qkv = qkv.unflatten(1, (heads, 3, -1))  # [B H 3 D N]
  q, k, v = (qkv[:, :, i].flatten(1, 2).transpose(1, 2) for i in range(3))
  y = attention(q, k, v, heads).transpose(1, 2)
  out = w['proj_out']
  y = F.conv1d(y, out.get('weight'), out.get('bias'))
  return x + y.reshape(x.shape)


def spatial_transformer(w, x, context, heads):
  y = w['proj_in'].conv(w['norm'].group_norm(x, 1e-6))
  y, i = y.flatten(2).transpose(1, 2), 0
  while f'transformer_blocks.{i}' in w:
    y = transformer_block(w[f'transformer_blocks.{i}'], y, context, heads)
    i += 1
  y = y.transpose(1, 2).reshape(x.shape)
  return x + w['proj_out'].conv(y)


def transformer_block(w, x, context, heads):
  def cross(a, y, source):
    q, k, v = (
      a[f'to_{n}'].linear(s) for n, s in zip('qkv', (y, source, source))
    )
    return a['to_out.0'].linear(attention(q, k, v, heads))

  y = w['norm1'].layer_norm(x)
  x = x + cross(w['attn1'], y, y)
  y = w['norm2'].layer_norm(x)
  x = x + cross(w['attn2'], y, y if context is None else context)
  value, gate = w['ff.net.0.proj'].linear(w['norm3'].layer_norm(x)).chunk(2, -1)
  return x + w['ff.net.2'].linear(value * F.gelu(gate))


def unet(w, p, x, t, context=None):
  """`p` holds unet_config.params."""
  half = p['model_channels'] // 2
  frequency = torch.exp(-math.log(10000) * torch.arange(half) / half)
  angle = t[:, None].float() * frequency
  emb = torch.cat([angle.cos(), angle.sin()], -1)
  emb = w['time_embed.0'].linear(emb)
  emb = w['time_embed.2'].linear(F.silu(emb))

  def block(place, x):
    x = res_block(w[f'{place}.0'], x, emb)
    if f'{place}.1.norm' in w:
      x = attend(w[f'{place}.1'], x, context, p)
    return x

  levels, count = len(p['channel_mult']), p['num_res_blocks']
  h = w['input_blocks.0.0'].conv(x)
  skips, n = [h], 1
  for i in range(levels):
    for _ in range(count):
      h = block(f'input_blocks.{n}', h)
      skips.append(h)
      n += 1
    if i < levels - 1:
      down = w[f'input_blocks.{n}.0']
      if 'op' in down:
        h = down['op'].conv(h, stride=2)
      else:
        h = res_block(down, h, emb, 'down')
      skips.append(h)
      n += 1
  h = res_block(w['middle_block.0'], h, emb)
  h = attend(w['middle_block.1'], h, context, p)
  h = res_block(w['middle_block.2'], h, emb)
  n = 0
  for i in reversed(range(levels)):
    for j in range(count + 1):
      place = f'output_blocks.{n}'
      h = block(place, torch.cat([h, skips.pop()], 1))
      n += 1
      if i and j == count:
        last = 2 if f'{place}.2' in w else 1
        up = w[f'{place}.{last}']
        if 'conv' in up:
          h = up['conv'].conv(F.interpolate(h, scale_factor=2, mode='nearest'))
        else:
          h = res_block(up, h, emb, 'up')
  return w['out.2'].conv(F.silu(w['out.0'].group_norm(h, 1e-5)))


# --- Conditioners. ---


def bert(w, tokens):
  """The paper's text encoder: heads of width 64, eight of them."""
  t = w['transformer']
  x = t['token_emb'].get('weight')[tokens]
  x, i = x + t['pos_emb.emb'].get('weight')[: tokens.shape[1]], 0
  while f'attn_layers.layers.{i}' in t:
    attn, feed = (t[f'attn_layers.layers.{i + k}'] for k in (0, 1))
    y = attn['0'].layer_norm(x)
    q, k, v = (attn[f'1.to_{n}'].linear(y) for n in 'qkv')
    x = x + attn['1.to_out'].linear(attention(q, k, v, 8))
    y = F.gelu(feed['1.net.0.0'].linear(feed['0'].layer_norm(x)))
    x, i = x + feed['1.net.2'].linear(y), i + 2
  return t['norm'].layer_norm(x)


def clip(w, tokens, heads):
  t = w['transformer.text_model']
  table = t['embeddings']
  x = table['token_embedding'].get('weight')[tokens]
  x = x + table['position_embedding'].get('weight')[: tokens.shape[1]]
  i = 0
  while f'encoder.layers.{i}' in t:
    layer = t[f'encoder.layers.{i}']
    y = layer['layer_norm1'].layer_norm(x)
    q, k, v = (layer[f'self_attn.{n}_proj'].linear(y) for n in 'qkv')
    y = attention(q, k, v, heads, causal=True)
    x = x + layer['self_attn.out_proj'].linear(y)
    y = layer['mlp.fc1'].linear(layer['layer_norm2'].layer_norm(x))
    x = x + layer['mlp.fc2'].linear(y * torch.sigmoid(1.702 * y))
    i += 1
  return t['final_layer_norm'].layer_norm(x)


def rescale(w, segmentation, classes, stages):
  x = F.one_hot(segmentation.long(), classes).movedim(-1, 1).float()
  for _ in range(stages):
    x = F.interpolate(x, scale_factor=0.5, mode='bilinear')
  return w['channel_mapper'].conv(x)


# --- Sampling. ---


def ddim(denoise, alpha_bar, z, steps):
  """The release's: T // S apart, one late, and ending on alpha_bar[0]."""
  alpha_bar = np.float64(alpha_bar)
  t = np.arange(0, len(alpha_bar), len(alpha_bar) // steps) + 1
  before = np.append(alpha_bar[0], alpha_bar[t[:-1]])
  for now, a, a_prev in zip(t[::-1], alpha_bar[t][::-1], before[::-1]):
    eps = denoise(z, torch.full((z.shape[0],), int(now)))
    x0 = (z - math.sqrt(1 - a) * eps) / math.sqrt(a)
    z = math.sqrt(a_prev) * x0 + math.sqrt(1 - a_prev) * eps
  return z
