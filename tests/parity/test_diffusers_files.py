"""Folders of diffusers', read here; folders of ours, opened there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')
transformers = pytest.importorskip('transformers')

from diffusers.pipelines.deprecated.latent_diffusion_uncond import (  # noqa: E402
  pipeline_latent_diffusion_uncond as uncond_file,
)
from diffusers.pipelines.latent_diffusion import (  # noqa: E402
  pipeline_latent_diffusion as text_file,
)
from diffusers.pipelines.latent_diffusion import (  # noqa: E402
  pipeline_latent_diffusion_superresolution as sr_file,
)
from diffusers.pipelines.stable_diffusion import (  # noqa: E402
  pipeline_stable_diffusion_inpaint as inpaint_file,
)

from ldm_jax import build  # noqa: E402
from ldm_jax.data import tokenize  # noqa: E402
from ldm_jax.interop import diffusers as folders  # noqa: E402
from ldm_jax.interop import diffusers_export  # noqa: E402
from ldm_jax.interop.imported import complete  # noqa: E402
from ldm_jax.pipeline import LatentDiffusionPipeline  # noqa: E402
from tests import clip_vocabulary  # noqa: E402
from tests.parity import oracles  # noqa: E402

pytestmark = pytest.mark.parity

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'red', 'blue', 'circle']
PROMPTS = ['red circle', 'blue']
STEPS = 5
WIDTHS = dict(block_out_channels=(16, 32), norm_num_groups=8)


def autoencoder():
  return diffusers.AutoencoderKL(
    **WIDTHS,
    down_block_types=('DownEncoderBlock2D',) * 2,
    up_block_types=('UpDecoderBlock2D',) * 2,
    sample_size=16,
    scaling_factor=0.7,
  )


def vq():
  return diffusers.VQModel(
    **WIDTHS,
    down_block_types=('DownEncoderBlock2D', 'AttnDownEncoderBlock2D'),
    up_block_types=('AttnUpDecoderBlock2D', 'UpDecoderBlock2D'),
    latent_channels=3,
    vq_embed_dim=2,
    num_vq_embeddings=16,
    scaling_factor=1.3,
    mid_block_add_attention=False,
  )


def unet(in_channels):
  return diffusers.UNet2DModel(
    **WIDTHS,
    sample_size=8,
    in_channels=in_channels,
    out_channels=2,
    layers_per_block=1,
    down_block_types=('DownBlock2D', 'AttnDownBlock2D'),
    up_block_types=('AttnUpBlock2D', 'UpBlock2D'),
  )


def text_unet(in_channels=4):
  return diffusers.UNet2DConditionModel(
    **WIDTHS,
    sample_size=8,
    in_channels=in_channels,
    layers_per_block=1,
    down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
    cross_attention_dim=24,
    attention_head_dim=4,
  )


def ddim(**more):
  return diffusers.DDIMScheduler(
    beta_schedule='scaled_linear', beta_start=0.0015, beta_end=0.0195,
    clip_sample=False, **more,
  )  # fmt: skip


def text_pipeline(folder):
  del folder
  bert = text_file.LDMBertModel(
    text_file.LDMBertConfig(
      vocab_size=len(WORDS), encoder_layers=1, encoder_ffn_dim=96,
      encoder_attention_heads=2, head_dim=8, d_model=24,
    )
  )  # fmt: skip
  words = {word: i for i, word in enumerate(WORDS)}
  return diffusers.LDMTextToImagePipeline(
    vqvae=autoencoder(),
    bert=bert,
    tokenizer=transformers.BertTokenizer(vocab=words),
    unet=text_unet(),
    scheduler=ddim(prediction_type='v_prediction'),
  )


def stable_components(folder):
  clip = transformers.CLIPTextModel(
    transformers.CLIPTextConfig(
      vocab_size=clip_vocabulary.SIZE, hidden_size=24, intermediate_size=40,
      num_hidden_layers=2, num_attention_heads=3,
      bos_token_id=clip_vocabulary.START, eos_token_id=clip_vocabulary.END,
    )
  )  # fmt: skip
  tokenizer = transformers.CLIPTokenizer.from_pretrained(
    clip_vocabulary.write(folder / 'clip'), model_max_length=77
  )
  return dict(
    vae=autoencoder(), text_encoder=clip, tokenizer=tokenizer,
    safety_checker=None, feature_extractor=None, requires_safety_checker=False,
  )  # fmt: skip


def stable_pipeline(folder):
  scheduler = diffusers.PNDMScheduler(
    beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012,
    skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False,
  )  # fmt: skip
  return diffusers.StableDiffusionPipeline(
    unet=text_unet(), scheduler=scheduler, **stable_components(folder)
  )


def inpainting_pipeline(folder):
  return diffusers.StableDiffusionInpaintPipeline(
    unet=text_unet(9),
    scheduler=ddim(steps_offset=1, set_alpha_to_one=False),
    **stable_components(folder),
  )


PIPELINES = {
  'unconditional': lambda folder: diffusers.LDMPipeline(vq(), unet(2), ddim()),
  'super_resolution': lambda folder: diffusers.LDMSuperResolutionPipeline(
    vq(), unet(5), ddim(timestep_spacing='trailing')
  ),
  'text': text_pipeline,
  'clip_text': stable_pipeline,
  'inpainting_clip_text': inpainting_pipeline,
}


def made(task, folder):
  """Their pipeline with random weights."""
  pipe = PIPELINES[task](folder)
  for component in pipe.components.values():
    if isinstance(component, torch.nn.Module):
      oracles.randomise(component)
  pipe.set_progress_bar_config(disable=True)
  return pipe


def loaded(imported, folder):
  """Ours, as `ldm_jax.load` makes it; the tokenizer's files are written."""
  for name, content in imported.files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  config = complete(imported.config)
  task = dict(config['task'])
  if 'vocab_file' in task:
    task['vocab_file'] = str(folder / task['vocab_file'])
  parts = build.parts(config | {'task': task})
  items = {k: imported.items[k] for k in ('model', 'ema', 'first_stage')}
  return LatentDiffusionPipeline(parts, items, imported.meta['scale_factor'])


def draw(shape, seed):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def holes():
  """(images in [-1, 1], masks whose edges lie within a latent's pixels)."""
  mask = np.zeros((2, 16, 16, 1), np.float32)
  mask[0, 3:10, 1:12] = 1
  mask[1, :, 7:] = 1
  return np.clip(draw((2, 16, 16, 3), 2), -1, 1), mask


def ours(task, ldm, noise, low_res):
  """Images in [0, 1], by the sampler that the folder asks for."""
  inputs = {
    'text': {'text': PROMPTS},
    'clip_text': {'text': PROMPTS},
    'inpainting_clip_text': dict(zip(('image', 'mask'), holes()), text=PROMPTS),
    'super_resolution': {'low_res': low_res},
    'unconditional': {},
  }[task]
  settings = dict(ldm.config.sampling) | {'steps': STEPS}
  cond, null = ldm.condition(inputs), None
  if 'text' in inputs:
    null, settings['guidance'] = ldm.null_condition(inputs), 3.0
  z = ldm.sample_latents(jnp.asarray(noise), cond, null, **settings)
  return np.clip(np.asarray(ldm.decode(z)) / 2 + 0.5, 0, 1)


def theirs(task, pipe, noise, low_res, monkeypatch):
  shared = {'num_inference_steps': STEPS, 'output_type': 'np'}
  latents = oracles.nchw(noise)
  for file in (uncond_file, sr_file):  # These take no latents.
    monkeypatch.setattr(file, 'randn_tensor', lambda *a, **k: latents)
  if task == 'unconditional':
    return pipe(batch_size=2, **shared).images
  if task == 'super_resolution':
    return pipe(oracles.nchw(low_res), **shared).images
  if task == 'inpainting_clip_text':
    image, mask = map(oracles.nchw, holes())
    # Theirs draws from the posterior.
    mode = lambda encoded, generator: encoded.latent_dist.mode()
    monkeypatch.setattr(inpaint_file, 'retrieve_latents', mode)
    shared |= {'image': (image + 1) / 2, 'mask_image': mask}
  # One of them divides by 8 whatever its autoencoder divides by.
  side = noise.shape[1] * (8 if task == 'text' else pipe.vae_scale_factor)
  return pipe(
    PROMPTS, guidance_scale=3.0, latents=latents, height=side, width=side,
    **shared,
  ).images  # fmt: skip


def compare(task, ldm, pipe, monkeypatch):
  noise = draw((2, 8, 8, ldm.parts.first_stage.latent_channels), 0)
  low_res = np.clip(draw((2, 8, 8, 3), 1), -1, 1)
  expected = theirs(task, pipe, noise, low_res, monkeypatch)
  found = ours(task, ldm, noise, low_res)
  assert expected.std() > 0.05
  # In steps of 255; the worst of them is allowed to be 2.
  assert 255 * np.abs(found - expected).max() < 0.1


def tensors(folder):
  return {
    f'{path.parent.name}/{name}': x
    for path in folder.rglob('*.safetensors')
    for name, x in safetensors.numpy.load_file(path).items()
  }


@pytest.mark.parametrize('task', PIPELINES)
def test_there_and_back(task, tmp_path, monkeypatch):
  """Their pipeline draws what ours does, and comes back bit by bit."""
  pipe = made(task, tmp_path)
  pipe.save_pretrained(tmp_path / 'theirs')
  imported = folders.read_folder(str(tmp_path / 'theirs'))
  assert all('sample.py draws' in note for note in imported.notes)
  ldm = loaded(imported, tmp_path / 'run')
  compare(task, ldm, pipe, monkeypatch)

  back = tmp_path / 'back'
  back.mkdir()
  config = complete(imported.config)
  config['task'] = dict(ldm.config.task)
  diffusers_export.write_folder(
    config, imported.items, imported.meta, str(back),
    tokenize.files_of(config['task']),
  )  # fmt: skip
  before, after = tensors(tmp_path / 'theirs'), tensors(back)
  assert before.keys() == after.keys()
  for name, x in before.items():
    assert x.dtype == after[name].dtype
    np.testing.assert_array_equal(x, after[name], err_msg=name)
  again = diffusers.DiffusionPipeline.from_pretrained(back)
  again.set_progress_bar_config(disable=True)
  assert type(again) is type(pipe)
  compare(task, ldm, again, monkeypatch)


OWN = {
  'stage': 'diffusion',
  'data': {'source': 'scenes', 'size': 32},
  'first_stage': dict(
    name='kl', z_channels=4, embed_dim=4, channels=16, multipliers=(1, 1, 2),
    num_res_blocks=1, norm_groups=8, mid_attention=False,
  ),
  'unet': dict(
    out_channels=4, channels=16, multipliers=(1, 2), attention_levels=(0, 1),
    num_res_blocks=1, head_width=8, attention='cross', norm_groups=8,
  ),
  'task': dict(
    name='text', width=24, depth=2, num_heads=2, head_width=16, length=77,
    vocab_file='scenes', vocab_size=39, special_tokens=(2, 3, 0),
  ),
}  # fmt: skip


def own_run(**changes):
  """A run of ours: random weights, and an average that differs from them."""
  config = complete(OWN | changes)
  parts = build.parts(config)
  init = lambda: build.init_diffusion_state(
    parts, optax.identity(), jax.random.key(0)
  )
  first = lambda: build.init_first_stage(parts, jax.random.key(0))
  rng = np.random.default_rng(0)

  def fill(x):
    scale = max(np.prod(x.shape[:-1]), 4) ** -0.5
    return (scale * rng.standard_normal(x.shape)).astype(np.float32)

  state = jax.eval_shape(init)
  items = {
    'model': jax.tree.map(fill, state.params),
    'ema': jax.tree.map(fill, state.ema),
    'first_stage': jax.tree.map(fill, jax.eval_shape(first)),
  }
  return config, items, LatentDiffusionPipeline(parts, items, 0.4)


def test_a_text_model_of_ours_opens_there(tmp_path, monkeypatch):
  """By prompts: the tokenizer goes along."""
  config, items, ldm = own_run()
  notes = diffusers_export.write_folder(
    config, items, {'scale_factor': 0.4}, str(tmp_path),
    tokenize.files_of(config['task']),
  )  # fmt: skip
  assert not notes
  pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
  pipe.set_progress_bar_config(disable=True)
  assert isinstance(pipe, diffusers.LDMTextToImagePipeline)
  compare('text', ldm, pipe, monkeypatch)
  # Unless told otherwise, it draws images of the training's size.
  assert pipe('red', num_inference_steps=1, output_type='np').images.shape == (
    1, 32, 32, 3,
  )  # fmt: skip


def test_a_super_resolution_model_of_ours_opens_there(tmp_path, monkeypatch):
  """Its pipeline does not scale latents: the autoencoder has taken it in."""
  config, items, ldm = own_run(
    task=dict(name='super_resolution', factor=4),
    unet=OWN['unet'] | dict(attention='self'),
  )
  meta = {'scale_factor': 0.4}
  diffusers_export.write_folder(config, items, meta, str(tmp_path))
  pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
  pipe.set_progress_bar_config(disable=True)
  compare('super_resolution', ldm, pipe, monkeypatch)


@pytest.mark.parametrize('make', [autoencoder, vq])
def test_an_autoencoder_goes_there_and_back(make, tmp_path):
  module = oracles.randomise(make())
  module.save_pretrained(tmp_path / 'theirs')
  imported = folders.read_folder(str(tmp_path / 'theirs'))
  config = complete(imported.config)
  parts = build.parts(config)
  params = {'params': imported.items['first_stage']}
  image = draw((2, 16, 16, 3), 0)
  apply = lambda x, method: parts.first_stage.apply(params, x, method=method)
  with torch.no_grad():
    encoded = module.encode(oracles.nchw(image))
    z = encoded.latents if make is vq else encoded.latent_dist.mode()
    decoded = module.decode(z).sample
  assert oracles.error(apply(image, 'encode'), oracles.nhwc(z)) <= 1e-4
  found = apply(oracles.nhwc(z), 'decode')
  assert oracles.error(found, oracles.nhwc(decoded)) <= 1e-4

  (tmp_path / 'back').mkdir()
  diffusers_export.write_folder(
    config, imported.items, imported.meta, str(tmp_path / 'back')
  )
  again, loading = type(module).from_pretrained(
    tmp_path / 'back', output_loading_info=True
  )
  assert not any(loading.values())
  assert again.config.scaling_factor == module.config.scaling_factor
  for name, x in module.state_dict().items():
    assert torch.equal(x, again.state_dict()[name]), name


def test_weights_of_older_versions(tmp_path):
  """Their names for the attention, and convolutions where matrices are now."""
  module = oracles.randomise(autoencoder())
  for name in ('new', 'old'):
    module.save_pretrained(tmp_path / name, safe_serialization=False)
  renamed = {
    'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn',
  }  # fmt: skip
  old = {}
  for name, x in module.state_dict().items():
    for today, before in renamed.items():
      name = name.replace(today, before)
    attention = '.attentions.' in name and x.ndim == 2
    old[name] = x[:, :, None, None] if attention else x
  assert any('proj_attn' in name for name in old)
  torch.save(old, tmp_path / 'old' / 'diffusion_pytorch_model.bin')
  found = (
    folders.read_folder(str(tmp_path / name)).items for name in ('new', 'old')
  )
  jax.tree.map(np.testing.assert_array_equal, *found)
