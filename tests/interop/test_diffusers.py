"""Tests for ldm_jax.interop.diffusers: folders that we wrote, read back."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy

from ldm_jax.interop import diffusers, diffusers_export, torch_writer
from ldm_jax.types import UserError
from tests import clip_vocabulary
from tests.interop import folders

CONFIGS = folders.configs()
WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'red', 'a', 'b', 'c']
SCALE = {'LDMSuperResolutionPipeline': 1.0}


def write(pipeline, folder, **meta):
  """A folder of random weights; returns the items."""
  config = CONFIGS[pipeline]
  items = folders.random_items(config)
  meta = {'scale_factor': SCALE.get(pipeline, 0.5), **meta}
  tokenizer = {}
  if pipeline == 'LDMTextToImagePipeline':
    tokenizer = {'vocab.txt': '\n'.join(WORDS).encode()}
  if pipeline.startswith('StableDiffusion'):
    there = clip_vocabulary.write(folder.parent / 'clip')
    tokenizer = {p.name: p.read_bytes() for p in there.iterdir()}
  folder.mkdir(exist_ok=True)
  diffusers_export.write_folder(config, items, meta, str(folder), tokenizer)
  return items


def change_json(path, **values):
  content = json.loads(path.read_text())
  path.write_text(json.dumps(content | values))


@pytest.mark.parametrize('pipeline', CONFIGS)
def test_what_was_written_comes_back(pipeline, tmp_path):
  items = write(pipeline, tmp_path / 'folder')
  imported = diffusers.read_folder(str(tmp_path / 'folder'))
  carried = imported.items.pop('carried', {})
  folders.assert_same(imported.items, items)
  assert bool(carried) == (pipeline == 'LDMTextToImagePipeline')
  assert all(not np.any(x) for x in folders.flat(carried).values())
  config = CONFIGS[pipeline]
  for section in ('first_stage', 'unet', 'schedule', 'loss', 'sampling'):
    wanted = dict(config[section])
    if config['unet']['attention'] == 'self':
      wanted.pop('transformer_depth', None)
    assert imported.config[section] == wanted, section
  task = dict(imported.config['task'])
  files = {
    'text': 'tokenizer/vocab.txt', 'clip_text': 'tokenizer',
    'inpainting_clip_text': 'tokenizer',
  }  # fmt: skip
  assert task.pop('vocab_file', None) == files.get(task['name'])
  assert task == config['task']
  assert imported.config['data'] == {'size': 16}
  assert imported.meta['scale_factor'] == SCALE.get(pipeline, 0.5)
  assert imported.meta['source']['pipeline'] == pipeline
  drawn = {k: imported.config['sampling'][k] for k in ('sampler', 'spacing')}
  usual = drawn == {'sampler': 'ddim', 'spacing': 'leading'}
  assert len(imported.notes) == (not usual)
  for note in imported.notes:
    assert '--sampler={sampler} --spacing={spacing}'.format(**drawn) in note


@pytest.mark.parametrize('section', [folders.KL, folders.VQ])
def test_an_autoencoder_alone(section, tmp_path):
  config = {'stage': 'first_stage', 'first_stage': section,
            'data': {'size': 24}}  # fmt: skip
  items = folders.random_items(config)
  diffusers_export.write_folder(config, items, {}, str(tmp_path))
  assert diffusers.is_folder(str(tmp_path))
  imported = diffusers.read_folder(str(tmp_path))
  folders.assert_same(imported.items, items)
  assert imported.config['stage'] == 'first_stage'
  assert imported.config['first_stage'] == section
  assert imported.config['data'] == {'size': 24}
  assert 'scale_factor' not in imported.meta


def test_an_autoencoder_without_a_scaling_factor_leaves_without(tmp_path):
  config = {'stage': 'first_stage', 'first_stage': folders.KL,
            'data': {'size': 24}}  # fmt: skip
  items = folders.random_items(config)
  for given, written in ((None, None), (0.25, 0.25)):
    meta = {'source': {'format': 'diffusers', 'scaling_factor': given}}
    diffusers_export.write_folder(config, items, meta, str(tmp_path))
    values = json.loads((tmp_path / 'config.json').read_text())
    assert values.get('scaling_factor') == written
    imported = diffusers.read_folder(str(tmp_path))
    assert imported.meta['source']['scaling_factor'] == written


def test_what_is_a_folder_of_diffusers(tmp_path):
  assert not diffusers.is_folder(str(tmp_path))
  (tmp_path / 'config.json').write_text('{"model_type": "bert"}')
  assert not diffusers.is_folder(str(tmp_path))
  (tmp_path / 'config.json').write_text('{"_class_name": "VQModel"}')
  assert diffusers.is_folder(str(tmp_path))


# Other ways to write the same.


@pytest.fixture
def uncond(tmp_path):
  items = write('LDMPipeline', tmp_path / 'folder')
  return tmp_path / 'folder', items


def weights(folder, component):
  return folder / component / 'diffusion_pytorch_model.safetensors'


def test_pickled_weights_are_the_same(uncond):
  folder, items = uncond
  path = weights(folder, 'unet')
  tensors = safetensors.numpy.load_file(path)
  path.unlink()
  torch_writer.write(str(path.with_suffix('.bin')), tensors, 0)
  folders.assert_same(diffusers.read_folder(str(folder)).items, items)


def test_weights_in_several_files(uncond):
  folder, items = uncond
  path = weights(folder, 'unet')
  tensors = safetensors.numpy.load_file(path)
  path.unlink()
  index = {'weight_map': {}}
  for i in range(2):
    name = f'diffusion_pytorch_model-{i}.safetensors'
    part = dict(sorted(tensors.items())[i::2])
    safetensors.numpy.save_file(part, path.with_name(name))
    index['weight_map'] |= dict.fromkeys(part, name)
  index_path = path.with_name(f'{path.name}.index.json')
  index_path.write_text(json.dumps(index))
  folders.assert_same(diffusers.read_folder(str(folder)).items, items)
  index['weight_map']['conv_in.bias'] = '../vqvae/secret.safetensors'
  index_path.write_text(json.dumps(index))
  with pytest.raises(UserError, match='secret.* not in its folder'):
    diffusers.read_folder(str(folder))


def test_variants_are_read_where_there_is_nothing_else(uncond):
  folder, items = uncond
  path = weights(folder, 'unet')
  tensors = safetensors.numpy.load_file(path)
  other = {name: x + 1 for name, x in tensors.items()}
  path.unlink()
  # In parts, with diffusers' name of their index.
  part = f'{path.stem}.fp16-00001-of-00001.safetensors'
  safetensors.numpy.save_file(other, path.with_name(part))
  index = path.with_name(f'{path.name}.index.fp16.json')
  index.write_text(json.dumps({'weight_map': dict.fromkeys(other, part)}))
  found = diffusers.read_folder(str(folder)).items['model']['unet']
  bias = items['ema']['conv_in']['bias']
  np.testing.assert_array_equal(found['conv_in']['bias'], bias + 1)
  whole = path.with_suffix('.bin')
  torch_writer.write(str(whole), tensors, 0)
  folders.assert_same(diffusers.read_folder(str(folder)).items, items)
  whole.unlink()
  index.unlink()
  with pytest.raises(UserError, match='holds parts .*fp16-00001-of-00001'):
    diffusers.read_folder(str(folder))


def test_half_precision_becomes_single(uncond):
  folder, items = uncond
  path = weights(folder, 'unet')
  tensors = safetensors.numpy.load_file(path)
  half = {name: x.astype(np.float16) for name, x in tensors.items()}
  path.unlink()
  safetensors.numpy.save_file(
    half, path.with_name('diffusion_pytorch_model.fp16.safetensors')
  )
  found = folders.flat(diffusers.read_folder(str(folder)).items['model'])
  for name, x in folders.flat(items['model']).items():
    assert found[name].dtype == np.float32
    np.testing.assert_array_equal(found[name], x.astype(np.float16))


def test_clip_s_names_without_their_prefix(tmp_path):
  folder = tmp_path / 'folder'
  items = write('StableDiffusionPipeline', folder)
  path = folder / 'text_encoder' / 'model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  assert all(name.startswith('text_model.') for name in tensors)
  bare = {name.removeprefix('text_model.'): x for name, x in tensors.items()}
  safetensors.numpy.save_file(bare, path)
  imported = diffusers.read_folder(str(folder))
  folders.assert_same(imported.items, items)
  again = tmp_path / 'again'
  again.mkdir()
  diffusers_export.write_folder(
    imported.config, imported.items, imported.meta, str(again)
  )
  written = safetensors.numpy.load_file(
    again / 'text_encoder' / 'model.safetensors'
  )
  folders.assert_same(written, bare)


def test_the_unused_head_travels(tmp_path):
  folder = tmp_path / 'folder'
  write('LDMTextToImagePipeline', folder)
  path = folder / 'bert' / 'model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  tensors['to_logits.bias'] += 3
  safetensors.numpy.save_file(tensors, path)
  imported = diffusers.read_folder(str(folder))
  assert imported.meta['source']['carried']
  again = tmp_path / 'again'
  again.mkdir()
  diffusers_export.write_folder(
    imported.config, imported.items, imported.meta, str(again)
  )
  written = safetensors.numpy.load_file(again / 'bert' / 'model.safetensors')
  folders.assert_same(written, tensors)


@pytest.mark.parametrize(
  ('pipeline', 'expected'),
  [('LDMPipeline', 1.0), ('LDMTextToImagePipeline', 0.18215)],
)
def test_a_missing_scaling_factor_is_what_it_was_then(
  pipeline, expected, tmp_path
):
  write(pipeline, tmp_path / 'folder')
  change_json(
    tmp_path / 'folder' / 'vqvae' / 'config.json', scaling_factor=None
  )
  imported = diffusers.read_folder(str(tmp_path / 'folder'))
  assert imported.meta['scale_factor'] == expected
  assert 'no scaling_factor' in imported.notes[0]


# Folders that do not fit.


def test_every_mismatch_is_listed_in_the_file_s_names(uncond):
  folder, _ = uncond
  path = weights(folder, 'unet')
  tensors = safetensors.numpy.load_file(path)
  tensors.pop('mid_block.attentions.0.to_k.weight')
  tensors.pop('conv_in.bias')
  tensors['conv_out.bias'] = np.zeros(5, np.float32)
  tensors['adapter.weight'] = np.zeros(2, np.float32)
  tensors['conv_norm_out.weight'][0] = np.nan
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(UserError) as error:
    diffusers.read_folder(str(folder))
  message = str(error.value)
  for part in (
    '2 missing:', 'unet/conv_in.bias',
    'unet/mid_block.attentions.0.to_k.weight',
    '1 unexpected: unet/adapter.weight',
    '1 misshapen: unet/conv_out.bias [5] instead of [2]',
    '1 not finite: unet/conv_norm_out.weight', '--lenient',
  ):  # fmt: skip
    assert part in message


def test_lenient_loads_what_fits_and_says_how_much(uncond):
  folder, items = uncond
  path = weights(folder, 'unet')
  tensors = safetensors.numpy.load_file(path)
  tensors.pop('mid_block.attentions.0.to_k.weight')
  safetensors.numpy.save_file(tensors, path)
  imported = diffusers.read_folder(
    str(folder),
    initial=lambda config: folders.random_items(CONFIGS['LDMPipeline'], seed=1),
  )
  found = folders.flat(imported.items['model'])
  fresh = folders.flat(
    folders.random_items(CONFIGS['LDMPipeline'], seed=1)['model']
  )
  for name, x in folders.flat(items['model']).items():
    # q, k and v are one array here: without one of them it is not loaded.
    source = fresh[name] if name == 'unet.mid_attn.qkv.kernel' else x
    np.testing.assert_array_equal(found[name], source)
  assert 'of the parameters were loaded' in imported.notes[-1]
  assert (
    '1 missing: unet/mid_block.attentions.0.to_k.weight' in (imported.notes[-1])
  )


@pytest.mark.parametrize(
  ('break_it', 'named'),
  [
    (lambda f: change_json(f / 'model_index.json', _class_name='Flux'),
     "_class_name='Flux'.*LDMPipeline"),
    (lambda f: (f / 'model_index.json').write_text('[1]'), '_class_name=None'),
    (lambda f: (f / 'model_index.json').write_text('{'), 'not valid JSON'),
    (lambda f: (f / 'unet' / 'config.json').unlink(), 'unet/config.json: No'),
    (lambda f: os.remove(weights(f, 'vqvae')), 'vqvae holds no weights'),
    (lambda f: (f / 'scheduler' / 'scheduler_config.json').write_text('3'),
     'scheduler_config.json is no JSON object'),
    (lambda f: change_json(f / 'unet' / 'config.json', in_channels=3),
     'in_channels=3 .* needs 2 and 2'),
    (lambda f: weights(f, 'unet').write_bytes(b'\x00' * 100),
     'diffusion_pytorch_model.safetensors cannot be read'),
  ],
)  # fmt: skip
def test_a_broken_folder_is_named(uncond, break_it, named):
  break_it(uncond[0])
  with pytest.raises(UserError, match=named):
    diffusers.read_folder(str(uncond[0]))


def test_there_is_one_set_of_weights(uncond):
  with pytest.raises(UserError, match='one set of weights'):
    diffusers.read_folder(str(uncond[0]), use_ema=True)
  assert not diffusers.read_folder(str(uncond[0])).meta['use_ema']


def test_a_context_of_another_width_is_named(tmp_path):
  folder = tmp_path / 'folder'
  write('LDMTextToImagePipeline', folder)
  change_json(folder / 'unet' / 'config.json', cross_attention_dim=10)
  with pytest.raises(UserError, match=r'width 10 .* gives 6'):
    diffusers.read_folder(str(folder))


def test_the_u_net_says_whether_it_sees_a_mask(tmp_path):
  """Their pipeline of inpainting takes U-Nets of text alone too."""
  folder = tmp_path / 'folder'
  write('StableDiffusionPipeline', folder)
  index = 'StableDiffusionInpaintPipeline'
  change_json(folder / 'model_index.json', _class_name=index)
  imported = diffusers.read_folder(str(folder))
  assert imported.config['task']['name'] == 'clip_text'
  assert 'sees no mask' in imported.notes[0]
  change_json(folder / 'unet' / 'config.json', in_channels=8)
  with pytest.raises(UserError, match='in_channels=8 .* needs 9 and 4'):
    diffusers.read_folder(str(folder))
  write('StableDiffusionInpaintPipeline', tmp_path / 'other')
  change_json(
    tmp_path / 'other' / 'model_index.json',
    _class_name='StableDiffusionPipeline',
  )
  imported = diffusers.read_folder(str(tmp_path / 'other'))
  assert imported.config['task']['name'] == 'inpainting_clip_text'


def test_a_safety_checker_is_left_out_and_said_so(tmp_path):
  folder = tmp_path / 'folder'
  write('StableDiffusionPipeline', folder)
  (folder / 'safety_checker').mkdir()
  notes = diffusers.read_folder(str(folder)).notes
  assert 'The safety checker is left out: images are unfiltered.' in notes
