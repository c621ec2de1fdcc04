"""convert.py, as a user calls it."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import yaml
from absl import flags
from absl.testing import flagsaver

import convert
import ldm_jax
from ldm_jax.interop import files
from ldm_jax.training import checkpoint
from ldm_jax.types import UserError
from tests.interop import hostile, released, states

ROOT = pathlib.Path(__file__).parents[1]


def write(folder: pathlib.Path, make=released.faces, seed=0) -> dict:
  """A tiny released model in `folder`; returns its state_dict."""
  content = released.tiny(make())
  state = states.random_state(content, seed)
  folder.mkdir(exist_ok=True)
  files.write_tensors(str(folder / 'model.ckpt'), state)
  (folder / 'config.yaml').write_text(yaml.safe_dump(content))
  return state


def run(command: str, **values):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  values = {k: str(v) if not isinstance(v, bool) else v
            for k, v in values.items()}  # fmt: skip
  with flagsaver.flagsaver(**values):
    return convert.main(command)


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
  """(state_dict, workdir) of an unconditional model with EMA."""
  folder = tmp_path_factory.mktemp('convert')
  state = write(folder / 'source')
  run('import', source=folder / 'source', workdir=folder / 'run')
  return state, folder / 'run'


def test_one_of_several_processes_converts_nothing(tmp_path, monkeypatch):
  monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '2')
  with pytest.raises(UserError, match='one of several processes .Open MPI.'):
    run('import', source=tmp_path, workdir=tmp_path / 'run')


def test_what_is_imported_samples(imported):
  state, workdir = imported
  ldm = ldm_jax.load(str(workdir))
  images = ldm.sample(num=1, steps=2)
  assert images.shape == (1, 32, 32, 3) and images.dtype == np.uint8
  bias = state['model_ema.diffusion_modelout2bias']
  np.testing.assert_array_equal(ldm.params['ema']['conv_out']['bias'], bias)
  assert sorted(os.listdir(workdir.parent)) == ['run', 'source']


def test_the_raw_weights_sample_where_they_are_asked_for(imported, tmp_path):
  state, _ = imported
  write(tmp_path / 'source')
  run(
    'import', source=tmp_path / 'source', workdir=tmp_path / 'run',
    use_ema=False,
  )  # fmt: skip
  ldm = ldm_jax.load(str(tmp_path / 'run'))
  bias = state['model.diffusion_model.out.2.bias']
  np.testing.assert_array_equal(ldm.params['ema']['conv_out']['bias'], bias)


@pytest.mark.parametrize('name', ['model.ckpt', 'model.safetensors'])
def test_exports_give_back_what_came_in(imported, tmp_path, name):
  state, workdir = imported
  out = tmp_path / 'release'
  run('export', workdir=workdir, format='compvis', out=out)
  again = files.read_tensors(str(out / name))
  assert again.keys() == state.keys()
  for key, x in state.items():
    assert again[key].dtype == x.dtype and again[key].shape == x.shape
    np.testing.assert_array_equal(again[key], x)
  # And what went out comes in.
  config = out / 'config.yaml'
  back = tmp_path / 'back'
  run('import', source=out / name, source_config=config, workdir=back)
  ours, theirs = (
    json.loads((w / 'config.json').read_text()) for w in (workdir, back)
  )
  assert ours == theirs


def test_exports_carry_a_card(imported, tmp_path):
  _, workdir = imported
  run('export', workdir=workdir, format='compvis', out=tmp_path / 'out')
  card = (tmp_path / 'out' / 'README.md').read_text()
  for word in ('Model card', 'unconditional', 'Limits', 'scale factor'):
    assert word in card
  assert str(tmp_path) not in card


def test_plain_safetensors_hold_our_own_names(imported, tmp_path):
  state, workdir = imported
  run('export', workdir=workdir, format='safetensors', out=tmp_path / 'out')
  tensors = files.read_tensors(str(tmp_path / 'out' / 'model.safetensors'))
  kernel = tensors['model/unet/conv_in/kernel']
  theirs = state['model.diffusion_model.input_blocks.0.0.weight']
  np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), theirs)


def test_an_export_overwrites_nothing(imported, tmp_path):
  _, workdir = imported
  (tmp_path / 'precious').write_text('mine')
  with pytest.raises(UserError, match='there already'):
    run('export', workdir=workdir, format='compvis', out=tmp_path)
  with pytest.raises(UserError, match='--format=pdf.*compvis'):
    run('export', workdir=workdir, format='pdf', out=tmp_path / 'x')
  assert os.listdir(tmp_path) == ['precious']


def test_the_step_is_that_of_the_checkpoint_that_was_read(tmp_path):
  checkpoint.write_config(tmp_path, {'stage': 'first_stage'})
  checkpoints = checkpoint.Checkpoints(tmp_path)
  for step in (3, 5):
    checkpoints.save(step, {'first_stage': {'w': np.full(4, step)}}, {})
  checkpoints.close()
  (tmp_path / 'checkpoints' / '5' / 'meta.json').write_text('{"torn": ')
  _, items, _, step = convert.read_run(str(tmp_path))
  assert step == 3 and items['first_stage']['w'].tolist() == [3] * 4


@pytest.mark.parametrize('name', ['compvis', 'diffusers', 'safetensors'])
def test_a_classifier_is_refused(tmp_path, name):
  checkpoint.write_config(tmp_path / 'run', {'stage': 'classifier'})
  with pytest.raises(UserError, match='holds a classifier'):
    run('export', workdir=tmp_path / 'run', format=name, out=tmp_path / 'out')
  assert os.listdir(tmp_path) == ['run']


def test_an_import_overwrites_imports_alone(tmp_path):
  source, workdir = tmp_path / 'source', tmp_path / 'run'
  write(source)
  run('import', source=source, workdir=workdir)
  second = write(source, seed=1)
  run('import', source=source, workdir=workdir)
  ldm = ldm_jax.load(str(workdir))
  np.testing.assert_array_equal(
    ldm.params['model']['unet']['conv_out']['bias'],
    second['model.diffusion_model.out.2.bias'],
  )
  # Trained on, or somebody's own: it stays.
  for name in ('metrics.jsonl', 'notes.txt'):
    (workdir / name).write_text('mine')
    with pytest.raises(UserError, match='no import wrote'):
      run('import', source=source, workdir=workdir)
    (workdir / name).unlink()
  (workdir / 'checkpoints' / '100').mkdir()
  with pytest.raises(UserError, match='no import wrote'):
    run('import', source=source, workdir=workdir)


def test_nothing_is_left_of_an_import_that_fails(tmp_path):
  state = write(tmp_path / 'source')
  del state['model.diffusion_model.out.2.bias']
  files.write_tensors(str(tmp_path / 'source' / 'model.ckpt'), state)
  with pytest.raises(UserError, match='1 missing: model.diffusion_model.out.2'):
    run('import', source=tmp_path / 'source', workdir=tmp_path / 'run')
  assert os.listdir(tmp_path) == ['source']


def test_lenient_fills_what_is_missing(tmp_path, capsys):
  state = write(
    tmp_path / 'source', lambda: released.first_stage_config('kl-f4')
  )
  del state['encoder.conv_in.bias']
  state['encoder.conv_out.bias'] = np.zeros(7, np.float32)
  files.write_tensors(str(tmp_path / 'source' / 'model.ckpt'), state)
  run(
    'import', source=tmp_path / 'source', workdir=tmp_path / 'run',
    lenient=True,
  )  # fmt: skip
  printed = capsys.readouterr().out
  assert '99.9' in printed and 'encoder.conv_out.bias [7]' in printed
  ldm = ldm_jax.load(str(tmp_path / 'run'))
  assert ldm.encode(np.zeros((1, 32, 32, 3), np.float32)).shape == (1, 8, 8, 3)


def test_a_folder_with_several_checkpoints_asks_which(tmp_path):
  for name in ('a.ckpt', 'b.ckpt', 'config.yaml'):
    (tmp_path / name).write_text('model: {}')
  with pytest.raises(UserError, match='a.ckpt, b.ckpt.*--source'):
    run('import', source=tmp_path, workdir=tmp_path / 'run')
  (tmp_path / 'config.yaml').unlink()
  with pytest.raises(UserError, match='--source_config'):
    run('import', source=tmp_path / 'a.ckpt', workdir=tmp_path / 'run')


def command(*arguments, cwd) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, ROOT / 'convert.py', *arguments],
    cwd=cwd,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    ((), 'import or export'),
    (('import', '--source=x.ckpt', '--workdir=run'), "asks for 'posix.system'"),
    (('convert', '--workdir=run'), "'convert'"),
    (('import', '--workdir=run'), '--source is missing'),
  ],
)
def test_mistakes_cost_one_line_and_exit_with_2(tmp_path, arguments, expected):
  (tmp_path / 'x.ckpt').write_bytes(hostile.ZIPS['code: os.system'])
  (tmp_path / 'x.yaml').write_text(yaml.safe_dump(released.faces()))
  done = command(*arguments, cwd=tmp_path)
  assert done.returncode == 2
  assert expected in done.stderr and done.stderr.count('\n') == 1
  assert sorted(os.listdir(tmp_path)) == ['x.ckpt', 'x.yaml']


def test_prompts_are_strings_where_a_tokenizer_lies_beside(tmp_path):
  write(tmp_path / 'source', released.text)
  words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', 'red', 'circle']
  vocabulary = '\n'.join(words) + '\n'
  (tmp_path / 'source' / 'vocab.txt').write_text(vocabulary)
  run('import', source=tmp_path / 'source', workdir=tmp_path / 'run')
  (tmp_path / 'source' / 'vocab.txt').unlink()
  os.rename(tmp_path / 'run', tmp_path / 'moved')
  ldm = ldm_jax.load(str(tmp_path / 'moved'))
  told = ldm.condition({'text': ['a red circle']}).context
  tokens = np.array([[2, 5, 6, 7, 3, 0, 0, 0, 0]])
  np.testing.assert_array_equal(told, ldm.condition({'tokens': tokens}).context)
