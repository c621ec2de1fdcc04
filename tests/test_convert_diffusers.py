"""convert.py with diffusers folders, as a user calls it; without diffusers."""

import json
import shutil

import numpy as np
import pytest
import yaml
from absl import flags
from absl.testing import flagsaver

import convert
import ldm_jax
from ldm_jax.interop import diffusers, diffusers_export, files
from ldm_jax.types import UserError
from tests import clip_vocabulary
from tests.interop import folders, released, states

CONFIGS = folders.configs()


def run(command: str, **values):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  values = {k: str(v) if not isinstance(v, bool) else v
            for k, v in values.items()}  # fmt: skip
  with flagsaver.flagsaver(**values):
    return convert.main(command)


@pytest.fixture(scope='module')
def stable(tmp_path_factory):
  """A Stable Diffusion folder, and the workdir that it became."""
  folder = tmp_path_factory.mktemp('stable')
  vocabulary = clip_vocabulary.write(folder / 'clip')
  tokenizer = {path.name: path.read_bytes() for path in vocabulary.iterdir()}
  config = CONFIGS['StableDiffusionPipeline']
  items = folders.random_items(config)
  (folder / 'source').mkdir()
  diffusers_export.write_folder(
    config, items, {'scale_factor': 0.18215}, str(folder / 'source'), tokenizer
  )
  run('import', source=folder / 'source', workdir=folder / 'run')
  return folder


def test_an_imported_folder_draws_from_prompts_wherever_it_lies(stable):
  shutil.copytree(stable / 'run', stable / 'moved')
  shutil.rmtree(stable / 'clip')
  ldm = ldm_jax.load(str(stable / 'moved'))
  assert ldm.scale_factor == 0.18215
  images = ldm.sample(num=1, steps=2, guidance=2.0, text='a red circle')
  assert images.shape == (1, 16, 16, 3) and images.dtype == np.uint8
  tokens = ldm.parts.prepare.arrays({'text': ['red']})['tokens']
  start, end = clip_vocabulary.START, clip_vocabulary.END
  np.testing.assert_array_equal(tokens, [[start, 513, *6 * [end]]])


def test_export_gives_the_folder_back(stable):
  out = stable / 'out'
  run('export', workdir=stable / 'run', format='diffusers', out=out)
  one, other = (
    diffusers.read_folder(str(stable / name)) for name in ('source', 'out')
  )
  folders.assert_same(one.items, other.items)
  assert one.config == other.config and one.files == other.files
  assert (out / 'README.md').read_text().startswith('# Model card')


def test_an_autoencoder_is_a_run_of_the_first_stage(tmp_path):
  config = {'stage': 'first_stage', 'first_stage': folders.VQ,
            'data': {'size': 16}}  # fmt: skip
  items = folders.random_items(config)
  (tmp_path / 'source').mkdir()
  diffusers_export.write_folder(config, items, {}, str(tmp_path / 'source'))
  run('import', source=tmp_path / 'source', workdir=tmp_path / 'run')
  ldm = ldm_jax.load(str(tmp_path / 'run'))
  z = ldm.encode(np.zeros((1, 16, 16, 3), np.float32))
  assert z.shape == (1, 8, 8, 2)
  run('export', workdir=tmp_path / 'run', format='diffusers',
      out=tmp_path / 'out')  # fmt: skip
  again = diffusers.read_folder(str(tmp_path / 'out'))
  folders.assert_same(again.items, items)


def test_a_release_becomes_a_folder(tmp_path):
  """The averaged weights go there; what is for training alone does not."""
  content = released.tiny(released.faces())
  source = tmp_path / 'source'
  source.mkdir()
  files.write_tensors(
    str(source / 'model.ckpt'), states.random_state(content, 0)
  )
  (source / 'config.yaml').write_text(yaml.safe_dump(content))
  run('import', source=source, workdir=tmp_path / 'run')
  out = tmp_path / 'out'
  run('export', workdir=tmp_path / 'run', format='diffusers', out=out)
  index = json.loads((out / 'model_index.json').read_text())
  assert index['_class_name'] == 'LDMPipeline'
  imported = diffusers.read_folder(str(out))
  ldm = ldm_jax.load(str(tmp_path / 'run'))
  folders.assert_same(imported.items['ema'], ldm.params['ema'])
  folders.assert_same(imported.items['first_stage'], ldm.params['first_stage'])


def test_a_folder_that_does_not_fit_leaves_nothing_behind(stable, tmp_path):
  broken = shutil.copytree(stable / 'source', tmp_path / 'source')
  (broken / 'unet' / 'diffusion_pytorch_model.safetensors').unlink()
  with pytest.raises(UserError, match='unet holds no weights'):
    run('import', source=broken, workdir=tmp_path / 'run')
  assert [path.name for path in tmp_path.iterdir()] == ['source']


def test_lenient_draws_what_is_missing(stable, tmp_path):
  partly = shutil.copytree(stable / 'source', tmp_path / 'source')
  path = partly / 'unet' / 'diffusion_pytorch_model.safetensors'
  tensors = {k: np.array(v) for k, v in files.read_tensors(str(path)).items()}
  kept = tensors.pop('conv_in.bias')
  files.write_tensors(str(path), tensors)
  run('import', source=partly, workdir=tmp_path / 'run', lenient=True)
  ldm = ldm_jax.load(str(tmp_path / 'run'))
  assert ldm.params['ema']['conv_in']['bias'].shape == kept.shape
  np.testing.assert_array_equal(
    ldm.params['ema']['conv_out']['bias'], tensors['conv_out.bias']
  )
