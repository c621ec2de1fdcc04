"""Tiny models of every released kind, from file to sample, against torch.

Each goes through torch.save and `convert.py import`, in a process of its own
as a user's would, and is then compared with functions that read the same
state_dict by the release's names.
"""

import numpy as np
import pytest
import yaml
from absl import flags
from absl.testing import flagsaver

torch = pytest.importorskip('torch')

import convert  # noqa: E402
import ldm_jax  # noqa: E402
from tests.interop import released, states  # noqa: E402
from tests.parity import compvis_oracle as oracle  # noqa: E402
from tests.parity.oracles import error, nchw, nhwc  # noqa: E402

KINDS = {
  'unconditional': released.faces,
  'scale-shift, residual up and down, kl': released.churches,
  'class, one head': released.imagenet_f4,
  'class, attention in the first stage': released.imagenet_f8,
  'text': released.text,
  'text, kl': released.text_1b,
  'clip': released.stable_diffusion,
  'layout, three deep': released.layout,
  'super-resolution': released.super_resolution,
  'inpainting': released.inpainting,
  'inpainting, clip': released.stable_diffusion_inpainting,
  'inpainting, text': released.text_inpainting,
  'semantic': released.semantic,
  'retrieval': released.retrieval,
}


@pytest.fixture(scope='module', params=KINDS)
def model(request, tmp_path_factory):
  """(pipeline, state of torch tensors, YAML) of a tiny model."""
  folder = tmp_path_factory.mktemp('compvis')
  content = released.tiny(KINDS[request.param]())
  state = states.random_state(content)
  tensors = {k: torch.from_numpy(np.array(v)) for k, v in state.items()}
  torch.save({'state_dict': tensors, 'global_step': 7}, folder / 'model.ckpt')
  (folder / 'config.yaml').write_text(yaml.safe_dump(content))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  workdir = str(folder / 'run')
  with flagsaver.flagsaver(source=str(folder), workdir=workdir):
    convert.main('import')
  return ldm_jax.load(workdir), tensors, content['model']['params']


def inputs(task: dict) -> dict:
  """A batch of two for any task."""
  rng = np.random.default_rng(1)
  name = task['name']
  if name == 'class_label':
    return {'label': rng.integers(0, task['num_classes'], 2)}
  result = {}
  if 'vocab_size' in task:
    size = (2, task['length'])
    result['tokens'] = rng.integers(0, task['vocab_size'], size)
  if name == 'semantic':
    size = (2, 32, 32)
    return {'segmentation': rng.integers(0, task['num_classes'], size)}
  if name == 'super_resolution':
    return {'low_res': rng.uniform(-1, 1, (2, 8, 8, 3)).astype('f4')}
  if name == 'retrieval':
    return {'embeddings': rng.standard_normal((2, 5, task['width']), 'f4')}
  if name.startswith('inpainting'):
    mask = (rng.uniform(size=(2, 32, 32, 1)) > 0.5).astype('f4')
    image = rng.uniform(-1, 1, (2, 32, 32, 3)).astype('f4')
    result |= {'image': image, 'mask': mask}
  return result


def hybrid(ldm, weights, batch, params):
  """concat NCHW, as Stable Diffusion's script and class make it."""
  image, mask = nchw(batch['image']), nchw(batch['mask'])
  w = oracle.Weights(weights, 'first_stage_model.')
  z = ldm.scale_factor * oracle.encode(w, image * (mask < 0.5))
  small = torch.nn.functional.interpolate(mask, size=z.shape[-2:])
  hidden = params.get('masked_image_key', 'masked_image')
  keys = params.get('concat_keys', ['mask', 'masked_image'])
  return torch.cat([z if key == hidden else small for key in keys], 1)


def told(ldm, weights, batch, params):
  """(concat NCHW, context) as the release makes them."""
  task = ldm.config.task
  w = oracle.Weights(weights, 'cond_stage_model.')
  both = params.get('conditioning_key') == 'hybrid'
  concat = hybrid(ldm, weights, batch, params) if both else None
  name = task['name'].removeprefix('inpainting_')
  if name == 'class_label':
    table = w['embedding'].get('weight')
    return None, table[torch.from_numpy(batch['label'])][:, None]
  if name in ('text', 'layout'):
    return concat, oracle.bert(w, torch.from_numpy(batch['tokens']))
  if name == 'clip_text':
    tokens = torch.from_numpy(batch['tokens'])
    return concat, oracle.clip(w, tokens, task['num_heads'])
  if name == 'semantic':
    maps = torch.from_numpy(batch['segmentation'])
    return oracle.rescale(w, maps, task['num_classes'], task['stages']), None
  if name == 'super_resolution':
    return nchw(batch['low_res']), None
  if name == 'retrieval':
    return None, torch.from_numpy(batch['embeddings'])
  if name == 'inpainting':
    image, mask = nchw(batch['image']), nchw(batch['mask'])
    masked = (image + 1) / 2 * (1 - mask) * 2 - 1
    z = oracle.encode(w, masked)
    small = torch.nn.functional.interpolate(mask * 2 - 1, size=z.shape[-2:])
    return torch.cat([z, small], 1), None
  return None, None


def averaged(weights) -> dict:
  """The U-Net's names, with the averaged values where there are any."""
  prefix = 'model.diffusion_model.'
  result = {}
  for name, x in weights.items():
    if name.startswith(prefix):
      flat = name.removeprefix('model.').replace('.', '')
      result[name] = weights.get('model_ema.' + flat, x)
  return result


@torch.no_grad()
def test_numbers_are_the_same(model):
  ldm, weights, params = model
  rng = np.random.default_rng(2)
  scale = ldm.scale_factor
  assert scale == pytest.approx(
    float(weights.get('scale_factor', params.get('scale_factor', 1.0)))
  )
  first = oracle.Weights(weights, 'first_stage_model.')
  images = rng.uniform(-1, 1, (2, 32, 32, 3)).astype('f4')
  z = oracle.encode(first, nchw(images)) * scale
  assert error(ldm.encode(images), nhwc(z)) <= 1e-4
  z = rng.standard_normal(nhwc(z).shape).astype('f4')
  assert error(ldm.decode(z), nhwc(oracle.decode(first, nchw(z) / scale))) <= (
    1e-4
  )

  batch = inputs(ldm.config.task)
  cond = ldm.condition(batch)
  concat, context = told(ldm, weights, batch, params)
  assert (cond.concat is None) == (concat is None)
  assert (cond.context is None) == (context is None)
  if concat is not None:
    assert error(cond.concat, nhwc(concat)) <= 1e-4
  if context is not None:
    assert error(cond.context, context) <= 1e-4

  unet = oracle.Weights(averaged(weights), 'model.diffusion_model.')
  p = params['unet_config']['params']

  def denoise(z, t):
    x = z if concat is None else torch.cat([z, concat], 1)
    return oracle.unet(unet, p, x, t, context)

  t = np.array([3, 777])
  wanted = denoise(nchw(z), torch.from_numpy(t))
  assert error(ldm.denoise(z, t, cond), nhwc(wanted)) <= 1e-4

  wanted = oracle.ddim(denoise, weights['alphas_cumprod'], nchw(z), 6)
  ours = ldm.sample_latents(z, cond, steps=6, spacing='compvis')
  assert error(ours, nhwc(wanted)) <= 1e-3


def test_raw_weights_are_there_too(model):
  ldm, weights, _ = model
  name = 'model.diffusion_model.out.2.weight'
  raw = np.asarray(ldm.params['model']['unet']['conv_out']['kernel'])
  np.testing.assert_array_equal(
    raw.transpose(3, 2, 0, 1), weights[name].numpy()
  )


@pytest.mark.parametrize('name', ['vq-f16', 'kl-f32', 'vq-f4-noattn'])
@torch.no_grad()
def test_first_stages_alone(name, tmp_path):
  content = released.tiny(released.first_stage_config(name))
  state = states.random_state(content)
  weights = {k: torch.from_numpy(v) for k, v in state.items()}
  losses = {'loss.discriminator.main.0.weight': torch.randn(64, 3, 4, 4)}
  torch.save({'state_dict': weights | losses}, tmp_path / 'model.ckpt')
  (tmp_path / 'config.yaml').write_text(yaml.safe_dump(content))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  workdir = str(tmp_path / 'run')
  with flagsaver.flagsaver(source=str(tmp_path), workdir=workdir):
    convert.main('import')
  ldm = ldm_jax.load(workdir)
  images = np.random.default_rng(2).uniform(-1, 1, (2, 32, 32, 3))
  images = images.astype('f4')
  z = oracle.encode(oracle.Weights(weights), nchw(images))
  assert error(ldm.encode(images), nhwc(z)) <= 1e-4
  x = oracle.decode(oracle.Weights(weights), z)
  assert error(ldm.decode(nhwc(z)), nhwc(x)) <= 1e-4
