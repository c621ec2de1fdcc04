"""Configs that were never released, but that the release's classes take.

Each differs from the released ones in many places at once: an import that
knows the released files by heart would fail here.
"""

import copy

import numpy as np
import pytest
import yaml
from absl import flags
from absl.testing import flagsaver

torch = pytest.importorskip('torch')

import convert  # noqa: E402
import ldm_jax  # noqa: E402
from ldm_jax.interop import files  # noqa: E402
from tests.interop import released, states  # noqa: E402
from tests.parity import compvis_oracle as oracle  # noqa: E402
from tests.parity import test_compvis as base  # noqa: E402
from tests.parity.oracles import error, nchw, nhwc  # noqa: E402


def first_stage(kind: str, z: int, embed: int, **dd) -> dict:
  params = {
    'embed_dim': embed,
    'ddconfig': {
      'double_z': kind == 'AutoencoderKL',
      'z_channels': z,
      'resolution': 32,
      'in_channels': 3,
      'out_ch': 3,
      'ch': 32,
      'ch_mult': [1, 2],
      'num_res_blocks': 1,
      'attn_resolutions': [],
      'dropout': 0.0,
      **dd,
    },
    'lossconfig': {'target': 'torch.nn.Identity'},
  }
  if kind != 'AutoencoderKL':
    params['n_embed'] = 50
  return {'target': f'ldm.models.autoencoder.{kind}', 'params': params}


def diffusion(stage: dict, cond, unet: dict, **params) -> dict:
  z = stage['params'].get('embed_dim', 3)
  network = {
    'image_size': 16, 'in_channels': z, 'out_channels': z,
    'model_channels': 32, 'num_res_blocks': 1, 'channel_mult': [1, 2],
    'attention_resolutions': [2], **unet,
  }  # fmt: skip
  return {
    'model': {
      'base_learning_rate': 2e-6,
      'target': 'ldm.models.diffusion.ddpm.LatentDiffusion',
      'params': {
        **params,
        'unet_config': {
          'target': 'ldm.modules.diffusionmodules.openaimodel.UNetModel',
          'params': network,
        },
        'first_stage_config': stage,
        'cond_stage_config': cond,
      },
    }
  }


def many_things_about_classes() -> dict:
  stage = first_stage(
    'AutoencoderKL', 4, 5, ch_mult=[2, 1], attn_resolutions=[16, 32]
  )
  unet = {
    'channel_mult': [1, 3, 2], 'attention_resolutions': [1, 4],
    'num_heads': 4, 'num_head_channels': -1, 'transformer_depth': 2,
    'use_scale_shift_norm': True, 'resblock_updown': True,
    'use_spatial_transformer': True, 'context_dim': [24], 'legacy': False,
    'dropout': 0.1, 'use_checkpoint': True,
  }  # fmt: skip
  cond = released.conditioner('ClassEmbedder', embed_dim=24, n_classes=7)
  return diffusion(
      stage, cond, unet, scale_by_std=True, beta_schedule='cosine',
      cosine_s=0.02, timesteps=250, parameterization='x0',
      learn_logvar=True, logvar_init=0.5, loss_type='l1', concat_mode=False,
      cond_stage_key='class_label', cond_stage_trainable=True,
  )  # fmt: skip


def one_level_both_kinds_of_heads() -> dict:
  stage = first_stage('VQModelInterface', 4, 6, ch_mult=[2])
  stage['params'] |= {'colorize_nlabels': 9, 'use_ema': True, 'remap': None}
  unet = {
    'num_res_blocks': 3, 'channel_mult': [1, 2, 3], 'model_channels': 32,
    'attention_resolutions': [4, 1, 32], 'num_heads': 3,
    'num_head_channels': 16,
  }  # fmt: skip
  return diffusion(
      stage, '__is_unconditional__', unet, beta_schedule='sqrt_linear',
      linear_start=0.0002, linear_end=0.03, timesteps=400, use_ema=False,
      scale_factor=1.7, channels=6,
  )  # fmt: skip


def holes_on_scaled_latents() -> dict:
  stage = first_stage('AutoencoderKL', 3, 2, ch_mult=[1, 1, 2])
  unet = {'in_channels': 5, 'num_heads': 2, 'resblock_updown': True}
  return diffusion(
      stage, '__is_first_stage__', unet, scale_factor=0.3,
      beta_schedule='sqrt', linear_start=1e-6, linear_end=0.001,
      cond_stage_key='masked_image', conditioning_key='concat',
  )  # fmt: skip


def maps_of_another_size() -> dict:
  stage = first_stage('VQModelInterface', 3, 3, attn_type='none')
  cond = released.conditioner(
    'SpatialRescaler', n_stages=1, in_channels=5, out_channels=4
  )
  unet = {
    'in_channels': 7, 'attention_resolutions': [32, 16], 'num_heads': 1,
    'num_head_channels': 32,
  }  # fmt: skip
  return diffusion(
      stage, cond, unet, cond_stage_key='segmentation', parameterization='v',
      image_size=16,
  )  # fmt: skip


def small_images_beside_pixels() -> dict:
  stage = {'target': 'ldm.models.autoencoder.IdentityFirstStage'}
  stage['params'] = {}
  unet = {'in_channels': 6, 'num_head_channels': 32}
  return diffusion(
      stage, released.IDENTITY, unet, cond_stage_key='LR_image',
      linear_start=1e-3, linear_end=1e-2, image_size=16,
  )  # fmt: skip


def boxes_without_a_tokenizer() -> dict:
  stage = first_stage('VQModel', 3, 3)
  cond = released.conditioner(
    'TransformerEmbedder', n_embed=48, n_layer=1, vocab_size=200, max_seq_len=11
  )
  unet = {
    'model_channels': 96, 'channel_mult': [1], 'num_heads': 3,
    'attention_resolutions': [1], 'use_spatial_transformer': True,
    'context_dim': 48,
  }  # fmt: skip
  return diffusion(
      stage, cond, unet, cond_stage_key='objects_bbox',
      conditioning_key='crossattn', scale_by_std=True, use_ema=False,
  )  # fmt: skip


CASES = (
  many_things_about_classes,
  one_level_both_kinds_of_heads,
  holes_on_scaled_latents,
  maps_of_another_size,
  small_images_beside_pixels,
  boxes_without_a_tokenizer,
)


def with_leftovers(state: dict) -> dict:
  """What training leaves in a state_dict beside the networks."""
  more = {
    'first_stage_model.loss.logvar': torch.zeros(()),
    'first_stage_model.colorize': torch.randn(3, 9, 1, 1),
    'first_stage_model.model_ema.encoderconv_inweight': torch.randn(4),
    'ddim_sigmas': torch.zeros(5),
    'lvlb_weights': torch.zeros(5),
  }
  return state | more


@pytest.fixture(scope='module', params=CASES)
def model(request, tmp_path_factory):
  """(pipeline, state of torch tensors, YAML's parameters, workdir)."""
  folder = tmp_path_factory.mktemp('variant')
  content = request.param()
  state = states.random_state(copy.deepcopy(content))
  tensors = {k: torch.from_numpy(np.array(v)) for k, v in state.items()}
  kept = with_leftovers(tensors)
  torch.save({'state_dict': kept, 'epoch': 3}, folder / 'last.ckpt')
  (folder / 'project.yaml').write_text(yaml.safe_dump(content))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  workdir = str(folder / 'run')
  with flagsaver.flagsaver(source=str(folder), workdir=workdir):
    convert.main('import')
  return ldm_jax.load(workdir), kept, content['model']['params'], workdir


def as_eps(out, z, t, alpha_bar, kind):
  """What a network says, as the noise that it implies."""
  a = torch.from_numpy(alpha_bar[t])[:, None, None, None]
  if kind == 'x0':
    return (z - a.sqrt() * out) / (1 - a).sqrt()
  return a.sqrt() * out + (1 - a).sqrt() * z if kind == 'v' else out


@torch.no_grad()
def test_numbers_are_the_same(model):
  ldm, weights, params, _ = model
  rng = np.random.default_rng(3)
  scale = float(weights.get('scale_factor', params.get('scale_factor', 1.0)))
  first = oracle.Weights(weights, 'first_stage_model.')
  images = rng.uniform(-1, 1, (2, 32, 32, 3)).astype('f4')
  z = ldm.encode(images)
  x = rng.standard_normal(z.shape).astype('f4')
  if 'encoder' in first:
    assert error(z, nhwc(oracle.encode(first, nchw(images)) * scale)) <= 1e-4
    wanted = nhwc(oracle.decode(first, nchw(x) / scale))
    assert error(ldm.decode(x), wanted) <= 1e-4
  else:
    np.testing.assert_array_equal(z, images)

  batch = base.inputs(ldm.config.task)
  if 'low_res' in batch:
    batch['low_res'] = images[::-1].copy()
  cond = ldm.condition(batch)
  concat, context = base.told(ldm, weights, batch, params)
  if concat is not None:
    assert error(cond.concat, nhwc(concat)) <= 1e-4
  if context is not None:
    assert error(cond.context, context) <= 1e-4
  ldm.null_condition(batch)

  state = weights if not params.get('use_ema', True) else base.averaged(weights)
  unet = oracle.Weights(state, 'model.diffusion_model.')
  alpha_bar = weights['alphas_cumprod'].numpy()
  p = params['unet_config']['params']

  def denoise(z, t):
    told = z if concat is None else torch.cat([z, concat], 1)
    out = oracle.unet(unet, p, told, t, context)
    kind = params.get('parameterization', 'eps')
    return as_eps(out, z, t.numpy(), alpha_bar, kind)

  t = np.array([3, len(alpha_bar) * 3 // 4])
  wanted = denoise(nchw(x), torch.from_numpy(t))
  assert error(ldm.denoise(x, t, cond), nhwc(wanted)) <= 1e-4
  wanted = oracle.ddim(denoise, alpha_bar, nchw(x), 5)
  ours = ldm.sample_latents(x, cond, steps=5, spacing='compvis')
  assert error(ours, nhwc(wanted)) <= 1e-3


def test_an_export_gives_back_what_came_in(model, tmp_path):
  _, weights, params, workdir = model
  out = str(tmp_path / 'release')
  with flagsaver.flagsaver(workdir=workdir, format='compvis', out=out):
    convert.main('export')
  found = files.read_tensors(f'{out}/model.ckpt')
  lost = ('ddim_', 'lvlb_', 'first_stage_model.model_ema.')
  kept = {k: v for k, v in weights.items() if not k.startswith(lost)}
  assert found.keys() == kept.keys()
  for name, x in kept.items():
    np.testing.assert_array_equal(found[name], x.numpy())
  with open(f'{out}/config.yaml') as f:
    said = yaml.safe_load(f)['model']['params']
  for key in ('beta_schedule', 'timesteps', 'parameterization', 'scale_factor'):
    if key in params:
      assert said[key] == params[key]
