"""Tests for ldm_jax.interop.diffusers_export; see also test_diffusers."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from ldm_jax.first_stage.autoencoder import AutoencoderKL, AutoencoderVQ
from ldm_jax.first_stage.codec import Codec
from ldm_jax.interop import diffusers_export
from ldm_jax.types import UserError
from tests.interop import folders

CONFIGS = folders.configs()
META = {'scale_factor': 0.5}


def write(config, folder, items=None, meta=META, tokenizer=None):
  items = items or folders.random_items(config)
  folder.mkdir(exist_ok=True)
  return diffusers_export.write_folder(
    config, items, meta, str(folder), tokenizer
  )


def read(path):
  return json.loads(path.read_text())


def test_the_averaged_weights_go_out(tmp_path):
  config = CONFIGS['LDMPipeline']
  items = folders.random_items(config)
  items['ema'] = folders.random_items(config, seed=1)['model']['unet']
  path = 'unet/diffusion_pytorch_model.safetensors'
  bias = lambda folder: safetensors.numpy.load_file(folder / path)[
    'conv_in.bias'
  ]
  write(config, tmp_path / 'ema', items)
  write(config, tmp_path / 'raw', items, META | {'use_ema': False})
  np.testing.assert_array_equal(
    bias(tmp_path / 'ema'), items['ema']['conv_in']['bias']
  )
  np.testing.assert_array_equal(
    bias(tmp_path / 'raw'), items['model']['unet']['conv_in']['bias']
  )


def test_the_index_names_every_component(tmp_path):
  config = CONFIGS['StableDiffusionPipeline']
  notes = write(config, tmp_path)
  index = read(tmp_path / 'model_index.json')
  assert index['_class_name'] == 'StableDiffusionPipeline'
  assert index['vae'] == ['diffusers', 'AutoencoderKL']
  assert index['text_encoder'] == ['transformers', 'CLIPTextModel']
  assert index['scheduler'] == ['diffusers', 'PNDMScheduler']
  assert index['safety_checker'] == [None, None]
  assert index['requires_safety_checker'] is False
  # None was given.
  assert index['tokenizer'] == [None, None] and 'no tokenizer' in notes[0]


def test_a_text_model_s_notes(tmp_path):
  """Its pipeline makes 77 tokens, and an image of 8 times the latent."""
  config = CONFIGS['LDMTextToImagePipeline']
  notes = write(config, tmp_path, tokenizer={'vocab.txt': b'[PAD]\n'})
  assert len(notes) == 1 and 'reads 7 tokens' in notes[0]
  # f is 2 and images are 16: latents of 8 come out of 8 * 4 * 2 // 8.
  size = read(tmp_path / 'unet' / 'config.json')['sample_size']
  assert size * 2 // 8 == 8
  assert (tmp_path / 'tokenizer' / 'vocab.txt').read_bytes() == b'[PAD]\n'
  settings = read(tmp_path / 'tokenizer' / 'tokenizer_config.json')
  assert settings['tokenizer_class'] == 'BertTokenizer'


@pytest.mark.parametrize(
  ('section', 'kind'),
  [(folders.KL, AutoencoderKL), (folders.VQ, AutoencoderVQ)],
)
def test_a_folded_scale_is_part_of_the_autoencoder(section, kind):
  """Encoding and decoding are what they were, without the factor."""
  items = folders.random_items({'first_stage': section})
  # So small that no log-variance is clipped.
  items['first_stage']['quant_conv']['kernel'] /= 1000
  fields = {k: v for k, v in section.items() if k != 'name'}
  codec = Codec(kind(**fields))
  rng = np.random.default_rng(1)
  image = rng.standard_normal((1, 8, 8, 3)).astype(np.float32)
  z = rng.standard_normal((1, 4, 4, section['embed_dim'])).astype(np.float32)
  encode, decode = jax.jit(codec.encode), jax.jit(codec.decode)

  def both(first_stage, scale):
    frozen = {'first_stage': first_stage, 'scale_factor': np.float32(scale)}
    keys = jax.random.split(jax.random.key(0), 1)
    return encode(frozen, image, keys), decode(frozen, z)

  before = both(items['first_stage'], 0.37)
  after = both(diffusers_export.fold(section, items, 0.37), 1.0)
  for one, other in zip(before, after):
    np.testing.assert_allclose(one, other, atol=1e-4 * float(np.abs(one).max()))


def test_super_resolution_folds_and_says_so(tmp_path):
  notes = write(CONFIGS['LDMSuperResolutionPipeline'], tmp_path)
  assert 'scale factor 0.5 is part of the autoencoder' in notes[0]
  assert read(tmp_path / 'vqvae' / 'config.json')['scaling_factor'] == 1.0
  assert read(tmp_path / 'unet' / 'config.json')['in_channels'] == 2 + 3


def test_a_task_without_a_pipeline_goes_as_components(tmp_path):
  config = CONFIGS['LDMTextToImagePipeline']
  items = folders.random_items(config)
  config = config | {'task': dict(name='class_label', num_classes=3, width=6)}
  table = np.ones((3, 6), np.float32)
  items['model']['conditioner'] = {'embedding': {'embedding': table}}
  notes = write(config, tmp_path, items)
  assert not (tmp_path / 'model_index.json').exists()
  assert 'no pipeline' in notes[0]
  kept = safetensors.numpy.load_file(
    tmp_path / 'conditioner' / 'model.safetensors'
  )
  np.testing.assert_array_equal(kept['embedding.embedding'], table)
  assert read(tmp_path / 'unet' / 'config.json')['cross_attention_dim'] == 6


def test_masked_images_are_told_as_their_pipeline_does(tmp_path):
  config = CONFIGS['StableDiffusionInpaintPipeline']
  task = config['task'] | {'mask_first': False, 'latent_scale': 0.5}
  items = folders.random_items(config)
  kernel = items['ema']['conv_in']['kernel']
  write(config | {'task': task}, tmp_path / 'theirs', items)
  path = tmp_path / 'theirs' / 'unet' / 'diffusion_pytorch_model.safetensors'
  found = safetensors.numpy.load_file(path)['conv_in.weight']
  found = found.transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(found[:, :, :4], kernel[:, :, :4])
  np.testing.assert_array_equal(found[:, :, 4:5], kernel[:, :, 8:])
  np.testing.assert_array_equal(found[:, :, 5:], 0.5 * kernel[:, :, 4:8])

  task = config['task'] | {'hole': -1.0}
  notes = write(config | {'task': task}, tmp_path / 'ours', items)
  assert 'task.hole=-1.0' in notes[-1]
  assert not (tmp_path / 'ours' / 'model_index.json').exists()
  assert (tmp_path / 'ours' / 'text_encoder' / 'model.safetensors').exists()


def test_pixel_models_have_no_pipeline(tmp_path):
  config = CONFIGS['LDMPipeline'] | {'first_stage': {'name': 'identity'}}
  with pytest.raises(UserError, match='identity'):
    write(config, tmp_path, {'model': {}})


def test_parameters_that_are_missing_are_named(tmp_path):
  config = CONFIGS['LDMPipeline']
  items = folders.random_items(config)
  del items['ema']['mid_attn']['qkv']['bias']
  with pytest.raises(UserError, match='model/unet/mid_attn/qkv/bias'):
    write(config, tmp_path, items)
