"""A sampler as one StableHLO file, run by what the docs say."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from jax import export
from jax.sharding import Mesh

import convert
import ldm_jax
from ldm_jax import build, stablehlo, weights
from ldm_jax.diffusion.settings import Settings
from ldm_jax.interop import compvis_config
from ldm_jax.interop.imported import complete
from ldm_jax.pipeline import LatentDiffusionPipeline
from ldm_jax.training import checkpoint
from ldm_jax.types import UserError
from tests import tiny, untrained
from tests.interop import released

ROOT = pathlib.Path(__file__).parents[1]
TOKENS = np.random.default_rng(0).integers(5, 39, (3, 16), np.int32)


def random_items(parts, seed=0):
  """Every weight drawn, those that training starts at zero included."""
  rng = np.random.default_rng(seed)

  def draw(x):
    fan_in = max(np.prod(x.shape[:-1], dtype=int), 1)
    drawn = rng.standard_normal(x.shape, np.float32) / np.sqrt(fan_in)
    return np.float32(drawn + (len(x.shape) == 1))

  return jax.tree.map(draw, weights.abstract(parts))


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('portable') / 'run')
  config = tiny.diffusion(
    first_stage={'multipliers': (1, 1)},
    unet={'multipliers': (1,), 'attention_levels': (0,), 'dropout': 0.0},
  )
  checkpoint.write_config(folder, config)
  checkpoints = checkpoint.Checkpoints(folder)
  items = random_items(build.parts(config))
  checkpoints.save(0, items, {'scale_factor': 0.8, 'next_example': 0})
  checkpoints.close()
  return folder


def exported(workdir, out, **values):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(
    workdir=workdir, format='stablehlo', out=str(out), **values
  ):
    convert.main('export')


def test_the_script_of_the_docs_draws_the_same_images(workdir, tmp_path):
  exported(workdir, tmp_path / 'art', steps=3)
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'art', 'art.json', 'art.md',
  ]  # fmt: skip
  docs = (ROOT / 'docs' / 'checkpoints.md').read_text()
  (script,) = re.findall(r'```python\n(.*?)```', docs, re.DOTALL)
  assert len(script.strip().splitlines()) <= 14
  # With None in its place, `import ldm_jax` fails wherever it stands.
  alone = "import sys\nsys.modules['ldm_jax'] = None\n"
  (tmp_path / 'draw.py').write_text(alone + script)
  np.savez(
    tmp_path / 'in.npz', tokens=TOKENS, number=[0, 1, 2], seed=7, guidance=2.5,
    eta=1,
  )  # fmt: skip
  subprocess.run(
    [sys.executable, 'draw.py', 'art', 'in.npz', 'out.npy'],
    cwd=tmp_path,
    check=True,
  )
  drawn = np.load(tmp_path / 'out.npy')
  loaded = ldm_jax.load(workdir)
  ldm = LatentDiffusionPipeline(
    loaded.parts,
    loaded.params,
    loaded.scale_factor,
    # On one device, as the script: three images on eight are padded, and a
    # batch of another size may round otherwise.
    mesh=Mesh(jax.local_devices()[:1], ('data',)),
  )
  wanted = ldm.sample(3, steps=3, seed=7, guidance=2.5, eta=1.0, tokens=TOKENS)
  assert wanted.std() > 10
  np.testing.assert_array_equal(drawn, wanted)

  about = json.loads((tmp_path / 'art.json').read_text())
  assert about['inputs']['tokens']['shape'] == ['batch', 16]
  assert '[CLS]' in about['tokenizer']['vocab.txt']
  assert '| tokens | int32 [batch, 16] |' in (tmp_path / 'art.md').read_text()
  with pytest.raises(UserError, match='there already'):
    exported(workdir, tmp_path / 'art', steps=3)


def test_classes_without_a_null_take_no_guidance():
  inputs = lambda rows, null: stablehlo._inputs(
    untrained.pipeline(
      task={'name': 'class_label', 'num_classes': rows, 'width': 16},
      null_prob=null,
    ),
    Settings(2),
    (32, 32),
    1,
  )[0]
  assert {*inputs(41, 0.1)} - {*inputs(41, 0.0)} == {'guidance'}


@pytest.mark.parametrize(
  'make',
  [
    released.churches,
    released.super_resolution,
    released.inpainting,
    released.semantic,
    pytest.param(released.imagenet_f4, marks=pytest.mark.slow),
    pytest.param(released.layout, marks=pytest.mark.slow),
    pytest.param(released.stable_diffusion, marks=pytest.mark.slow),
    pytest.param(released.stable_diffusion_inpainting, marks=pytest.mark.slow),
    pytest.param(released.retrieval, marks=pytest.mark.slow),
  ],
)
def test_every_task_goes_into_a_file_for_any_batch(make, tmp_path):
  config = complete(compvis_config.read(released.tiny(make())).config)
  task = config['task']
  if task['name'].endswith('clip_text'):
    task |= {'depth': 1, 'num_heads': 1, 'vocab_size': 40}
  parts = build.parts(config)
  items = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), weights.abstract(parts)
  )
  ldm = LatentDiffusionPipeline(parts, items, 1.0)
  path = str(tmp_path / 'art')
  about = stablehlo.write(ldm, path, Settings(2), size=(32, 64))
  content = pathlib.Path(path).read_bytes()
  art = export.deserialize(bytearray(content))
  assert art.platforms == ('cpu', 'cuda', 'tpu')
  assert art.nr_devices == 1
  assert [str(d) for d in art.out_avals[0].shape] == ['batch', '32', '64', '3']
  assert about['inputs'].keys() >= {'seed', 'number', 'eta'}
  for name, array in parts.prepare.blank(32).items():
    rank = np.ndim(array) + 1
    assert len(about['inputs'][name]['shape']) == rank
  if task['name'].startswith('inpainting'):
    assert about['inputs']['mask']['shape'] == ['batch', 32, 64, 1]
  if task['name'] == 'super_resolution':
    assert about['inputs']['low_res']['shape'] == ['batch', 8, 16, 3]


@pytest.mark.parametrize('spacing', ['leading', 'trailing', 'compvis'])
@pytest.mark.parametrize('eta', [0.0, 0.3, 1.0])
def test_a_traced_eta_gives_the_table_of_the_host(spacing, eta):
  schedule = build.parts(tiny.diffusion()).schedule
  settings = Settings(20, eta=eta, spacing=spacing)
  wanted = settings.table(schedule)
  found = jax.jit(lambda e: stablehlo.with_eta(schedule, settings, e))(eta)
  if eta in (0, 1):
    np.testing.assert_array_equal(found.mix, np.float32(wanted.mix))
    np.testing.assert_array_equal(found.noise, np.float32(wanted.noise))
  np.testing.assert_allclose(found.mix, wanted.mix, atol=1e-6)
  np.testing.assert_allclose(found.noise, wanted.noise, atol=1e-6)


def test_what_cannot_be_a_file_is_said(workdir, tmp_path, monkeypatch):
  ldm = ldm_jax.load(workdir)
  path = str(tmp_path / 'art')
  with pytest.raises(UserError, match='does not divide'):
    stablehlo.write(ldm, path, Settings(2), size=(31, 32))
  with pytest.raises(UserError, match='--batch=-1 must be'):
    stablehlo.write(ldm, path, Settings(2), batch_size=-1)
  unet = ldm.parts.model.unet.clone(multipliers=(1, 1))
  model = ldm.parts.model.clone(unet=unet)
  halved = dataclasses.replace(ldm.parts, model=model)
  halved = LatentDiffusionPipeline(halved, ldm.params, ldm.scale_factor)
  with pytest.raises(UserError, match='does not halve'):
    stablehlo.write(halved, path, Settings(2), size=(30, 32))
  monkeypatch.setattr(stablehlo, 'MOST_BYTES', 1000)
  with pytest.raises(UserError, match='less than 2'):
    stablehlo.write(ldm, path, Settings(2))
  first = dataclasses.replace(ldm.parts, model=None)
  alone = LatentDiffusionPipeline(first, ldm.params)
  with pytest.raises(UserError, match='first stage alone'):
    stablehlo.write(alone, path, Settings(2))
