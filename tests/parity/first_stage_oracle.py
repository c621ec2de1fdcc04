"""What first stages are compared with: diffusers' twins, and the loss in torch.

Torch's formulas are written here from the paper and the release's definitions.
"""

import functools
import re

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from ldm_jax.first_stage import lpips
from ldm_jax.first_stage.autoencoder import AutoencoderKL, AutoencoderVQ
from ldm_jax.first_stage.discriminator import Discriminator

F = torch.nn.functional

CHANNELS, GROUPS, BLOCKS = 16, 8, 2


def randomised(init, *args, seed=0):
  """Variables of a module in which nothing is zero or one."""
  shapes = jax.eval_shape(init, jax.random.key(0), *args)
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    x = rng.standard_normal(leaf.shape, np.float32)
    name = path[-1].key
    if name == 'kernel':
      return x / np.sqrt(np.prod(leaf.shape[:-1]))
    if name == 'embedding':
      return x
    return 0.2 * x + (name in ('scale', 'var'))

  return jax.tree_util.tree_map_with_path(draw, shapes)


def images(seed, batch=2, side=16):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (batch, side, side, 3)).astype(np.float32)


def assert_near(got, expected, limit, what='', floor=0.0):
  got, expected = np.asarray(got), np.asarray(expected)
  assert got.shape == expected.shape, what
  error = np.abs(got - expected).max() / max(expected.std(), floor)
  assert error <= limit, f'{what}: {error:.2e}'


def assert_gradients_near(got, module):
  """Each parameter's within 1e-3 of its standard deviation."""
  expected = {name: p.grad for name, p in module.named_parameters()}
  assert got.keys() == expected.keys()
  typical = float(np.median([grad.std() for grad in expected.values()]))
  for name, grad in expected.items():
    # softmax forgets a shift of all logits: in both it is rounding alone.
    floor = typical if name.endswith('to_k.bias') else 0.0
    assert_near(got[name], grad, 1e-3, name, floor)


# --- Autoencoders in diffusers ------------------------------------------------

# (ours, theirs), tried in order on 'encoder.down_0_block_1.conv1' and so on.
RENAMES = (
  (r'\bdown_(\d+)_block_', r'down_blocks.\1.resnets.'),
  (r'\bdown_(\d+)_attn_', r'down_blocks.\1.attentions.'),
  (r'\bdown_(\d+)_downsample', r'down_blocks.\1.downsamplers.0'),
  (r'\bup_(\d+)_block_', r'up_blocks.\1.resnets.'),
  (r'\bup_(\d+)_attn_', r'up_blocks.\1.attentions.'),
  (r'\bup_(\d+)_upsample', r'up_blocks.\1.upsamplers.0'),
  (r'\bmid_block_1', 'mid_block.resnets.0'),
  (r'\bmid_block_2', 'mid_block.resnets.1'),
  (r'\bmid_attn', 'mid_block.attentions.0'),
  (r'(attentions\.\d+)\.norm', r'\1.group_norm'),
  (r'(attentions\.\d+)\.([qkv])\b', r'\1.to_\2'),
  (r'(attentions\.\d+)\.proj_out', r'\1.to_out.0'),
  (r'\bshortcut', 'conv_shortcut'),
  (r'\bnorm_out', 'conv_norm_out'),
)


def diffusers_name(path, levels):
  name = '.'.join(key.key for key in path[:-1])
  for ours, theirs in RENAMES:
    name = re.sub(ours, theirs, name)
  # diffusers numbers the decoder's levels in the order of their use.
  flip = lambda m: f'up_blocks.{levels - 1 - int(m[1])}'
  name = re.sub(r'up_blocks\.(\d+)', flip, name)
  kind = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}
  leaf = path[-1].key
  name += '.embedding' if leaf == 'embedding' else ''
  return f'{name}.{kind.get(leaf, leaf)}'


def torch_layout(name, value):
  value = np.asarray(value)
  if value.ndim == 4:
    value = value.transpose(3, 2, 0, 1)  # HWIO -> OIHW
    if '.to_' in name:  # A 1x1 convolution there is a linear layer.
      value = value[:, :, 0, 0]
  return value.copy()


def state_dict(params, levels):
  """Ours, in diffusers' names and layouts: {name: array}."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  names = [(diffusers_name(path, levels), value) for path, value in leaves]
  return {name: torch_layout(name, value) for name, value in names}


def load(theirs, params, levels):
  arrays = state_dict(params, levels)
  theirs.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
  return theirs


def block_types(model, name):
  kinds = [
    f'Attn{name}' if i in model.attention_levels else name
    for i in range(len(model.multipliers))
  ]
  return tuple(kinds if 'Down' in name else reversed(kinds))


def twins(kind, multipliers, attention_levels=(), mid_attention=True):
  """The same autoencoder here and in diffusers, random everywhere."""
  ours = kind(
    z_channels=4,
    embed_dim=4,
    channels=CHANNELS,
    multipliers=multipliers,
    num_res_blocks=BLOCKS,
    attention_levels=attention_levels,
    mid_attention=mid_attention,
    norm_groups=GROUPS,
    **({'num_codes': 64} if kind is AutoencoderVQ else {}),
  )
  shared = {
    'down_block_types': block_types(ours, 'DownEncoderBlock2D'),
    'up_block_types': block_types(ours, 'UpDecoderBlock2D'),
    'block_out_channels': tuple(CHANNELS * m for m in multipliers),
    'layers_per_block': BLOCKS,
    'latent_channels': 4,
    'norm_num_groups': GROUPS,
    'mid_block_add_attention': mid_attention,
  }
  if kind is AutoencoderKL:
    theirs = diffusers.AutoencoderKL(**shared)
  else:
    theirs = diffusers.VQModel(num_vq_embeddings=64, vq_embed_dim=4, **shared)
  variables = randomised(ours.init, jnp.zeros((1, 32, 32, 3)))
  return ours, variables, load(theirs, variables['params'], len(multipliers))


SHAPES = {
  'f1': ((1,), (0,), True),
  'f4': ((1, 2, 4), (), True),
  'f4-noattn': ((1, 2, 4), (), False),
  'f8-attn': ((1, 2, 2, 4), (2, 3), True),
}


@functools.cache
def pair(kind, shape):
  return twins(kind, *SHAPES[shape])


# --- The networks of the loss -------------------------------------------------


def torch_discriminator(variables, num_layers):
  """The PatchGAN as nn.Sequential, in the release's order."""
  conv = functools.partial(torch.nn.Conv2d, kernel_size=4, padding=1)
  modules, before = [], 3
  params, stats = variables['params'], variables['batch_stats']
  for i in range(num_layers + 2):
    kernel = params[f'conv_{i}']['kernel']
    width = kernel.shape[-1]
    bias = params[f'conv_{i}'].get('bias')
    layer = conv(
      before, width, stride=2 if i < num_layers else 1, bias=bias is not None
    )
    copy(layer.weight, kernel.transpose(3, 2, 0, 1))
    if bias is not None:
      copy(layer.bias, bias)
    modules.append(layer)
    if 0 < i <= num_layers:
      norm = torch.nn.BatchNorm2d(width)
      copy(norm.weight, params[f'norm_{i}']['scale'])
      copy(norm.bias, params[f'norm_{i}']['bias'])
      copy(norm.running_mean, stats[f'norm_{i}']['mean'])
      copy(norm.running_var, stats[f'norm_{i}']['var'])
      modules.append(norm)
    if i <= num_layers:
      modules.append(torch.nn.LeakyReLU(0.2))
    before = width
  return torch.nn.Sequential(*modules)


def copy(parameter, value):
  with torch.no_grad():
    parameter.copy_(torch.from_numpy(np.array(value)))


@functools.cache
def discriminator_pair(num_layers, channels=8):
  ours = Discriminator(channels, num_layers)
  variables = randomised(ours.init, jnp.zeros((1, 32, 32, 3)))
  variables['batch_stats'] = jax.tree.map(np.abs, variables['batch_stats'])
  return ours, variables, torch_discriminator(variables, num_layers)


@functools.cache
def lpips_files():
  """Arrays as torchvision's VGG-16 and LPIPS's heads hold them."""
  rng = np.random.default_rng(0)
  arrays, before = {}, 3
  for k, convs in enumerate(lpips.SLICES):
    for index, width in convs:
      kernel = rng.standard_normal((width, before, 3, 3), np.float32)
      arrays[f'features.{index}.weight'] = kernel * (2 / 9 / before) ** 0.5
      bias = 0.1 * rng.standard_normal(width, np.float32)
      arrays[f'features.{index}.bias'] = bias
      before = width
    head = rng.random((1, before, 1, 1), np.float32)
    arrays[f'lin{k}.model.1.weight'] = head
  return arrays


def torch_lpips(arrays, x, y):
  """From torchvision's layer list: convolutions, ReLUs, five slices."""
  shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
  scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
  get = lambda name: torch.from_numpy(arrays[name])

  def features(h):
    h, out = (h - shift) / scale, []
    for index in range(31):
      if index in (4, 9, 16, 23):  # Max pooling, after relu1_2 ... relu4_3.
        out.append(h)
        h = F.max_pool2d(h, 2)
      elif f'features.{index}.weight' in arrays:
        weight = get(f'features.{index}.weight')
        h = F.conv2d(h, weight, get(f'features.{index}.bias'), padding=1)
        h = F.relu(h)
      if index == 29:
        out.append(h)
    unit = lambda h: h / (torch.sqrt((h**2).sum(1, keepdim=True)) + 1e-10)
    return [unit(h) for h in out]

  total = 0.0
  for k, (a, b) in enumerate(zip(features(x), features(y), strict=True)):
    squared = F.conv2d((a - b) ** 2, get(f'lin{k}.model.1.weight'))
    total = total + squared.mean((1, 2, 3))
  return total


# --- The whole objective ------------------------------------------------------


def torch_objective(spec, theirs, judge, arrays, x, noise):
  """The release's generator and discriminator losses, by autograd."""
  kl = isinstance(theirs, diffusers.AutoencoderKL)
  if kl:
    posterior = theirs.encode(x).latent_dist
    z = posterior.mean + posterior.std * noise
    mean, logvar = posterior.mean, posterior.logvar
    regular = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / len(x)
    weight = spec.kl_weight
  else:
    z = theirs.encode(x).latents
    codes = theirs.quantize.embedding.weight
    flat = z.permute(0, 2, 3, 1)
    nearest = torch.cdist(flat.reshape(-1, 4), codes).argmin(1)
    q = codes[nearest].reshape(flat.shape)
    regular = ((q.detach() - flat) ** 2).mean()
    regular = regular + 0.25 * ((q - flat.detach()) ** 2).mean()
    weight = spec.codebook_weight
  recon = theirs.decode(z).sample

  error = (x - recon).abs() if spec.pixel == 'l1' else (x - recon) ** 2
  distance = torch_lpips(arrays, x, recon).view(-1, 1, 1, 1)
  error = error + spec.perceptual_weight * distance
  if kl:
    error = error / np.exp(spec.logvar_init) + spec.logvar_init
    nll = error.sum() / len(x)
  else:
    nll = error.mean()

  generator = -judge(recon).mean()
  last = theirs.decoder.conv_out.weight
  norm = lambda loss: torch.autograd.grad(loss, last, retain_graph=True)[
    0
  ].norm()
  d_weight = norm(nll) / (norm(generator) + 1e-4)
  d_weight = spec.disc_weight * d_weight.clamp(0, 1e4).detach()
  loss = nll + weight * regular + d_weight * generator

  real, fake = judge(x), judge(recon.detach())
  if spec.disc_loss == 'hinge':
    disc = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
  else:
    disc = F.softplus(-real).mean() + F.softplus(fake).mean()
  return {
    'loss': loss,
    'rec': nll,
    'kl' if kl else 'codebook_loss': regular,
    'gen_loss': generator,
    'd_weight': d_weight,
    'disc_loss': 0.5 * disc,
    'logits_real': real.mean(),
    'logits_fake': fake.mean(),
  }
