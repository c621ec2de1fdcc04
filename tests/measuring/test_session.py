"""What an evaluation opens, and what it says where something is missing."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.evaluation import npz
from ldm_jax.measuring import session
from ldm_jax.measuring.options import Options
from ldm_jax.types import UserError
from tests.evaluation import released

RNG = np.random.default_rng(0)


def opened(**options):
  return session.Session(Options(**options), say=lambda text: None)


def test_metrics_that_need_files_name_them_and_their_options(text_run):
  found = opened(workdir=str(text_run))
  with pytest.raises(UserError, match='--inception.*6726825d.*graph_def.pb'):
    found.inception  # noqa: B018
  with pytest.raises(UserError, match='--lpips.*vgg16-397923af.*md5 d507d7'):
    found.lpips_params  # noqa: B018
  found = opened(workdir=str(text_run), vgg='absent.pth', metrics=('fid',))
  with pytest.raises(UserError, match='--vgg=absent.pth is no file'):
    found.neighbour_network  # noqa: B018


def test_the_default_is_what_is_possible(text_run, vq_run, tmp_path):
  assert opened(workdir=str(text_run)).metrics == (
    'random_frechet', 'neighbours', 'scene_accuracy',
  )  # fmt: skip
  assert opened(workdir=str(vq_run)).metrics == (
    'psnr', 'ssim', 'random_rfrechet', 'codebook',
  )  # fmt: skip
  Image.new('RGB', (16, 16)).save(tmp_path / 'a.png')
  with pytest.raises(UserError, match='--reference'):
    opened(samples=str(tmp_path)).metrics  # noqa: B018


def test_reports_lie_beside_what_they_measure(text_run, tmp_path):
  assert opened(workdir=str(text_run)).out == (
    text_run / 'evaluation' / 'step_0000002'
  )
  assert opened(samples=str(tmp_path)).out == tmp_path
  assert opened(samples='a/b.npz').out.name == 'a'
  assert opened(samples='a/b.npz', out='c').out.name == 'c'


def test_references_are_paths_or_splits(text_run, tmp_path):
  assert opened(workdir=str(text_run)).reference.count == 20
  found = opened(workdir=str(text_run), reference='validation')
  assert found.reference.name == 'scenes (validation)'
  npz.write(tmp_path / 'a.npz', RNG.integers(0, 256, (9, 8, 8, 3), np.uint8))
  path = str(tmp_path / 'a.npz')
  found = opened(workdir=str(text_run), reference=path, reference_num=5)
  assert found.reference.count == 5
  with pytest.raises(UserError, match='--reference is absent does not exist'):
    opened(samples=str(tmp_path), reference='absent').reference  # noqa: B018


def test_captions_of_galleries_and_runs(text_run, tmp_path):
  found = opened(workdir=str(text_run), num=5)
  assert len(found.captions) == 5 and ' circle ' in found.captions[0]
  rows = [{'file': 'a.png', 'text': 'x'}, {'file': 'b.png'}]
  (tmp_path / 'samples.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  assert opened(samples=str(tmp_path)).captions is None


def test_reconstruction_on_all_devices_is_that_on_one(vq_run):
  found = opened(workdir=str(vq_run))
  ldm = found.ldm
  x = RNG.uniform(-1, 1, (5, 32, 32, 3)).astype(np.float32)
  found, codes = found.reconstruct(x)
  expected = ldm.decode(ldm.encode(x))
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert codes.shape == (5, 8, 8) and codes.max() < 16


def test_torch_files_of_old_are_read(tmp_path):
  from ldm_jax.interop import torch_writer

  arrays = {'features.0.weight': released.SHAPES['vgg16_torchvision']}
  arrays = {
    k: np.zeros(v['features.0.weight'], 'f4') for k, v in arrays.items()
  }
  torch_writer.write(str(tmp_path / 'a.pth'), arrays, 0)
  found = session.read_weights(str(tmp_path / 'a.pth'))
  assert {k: v.shape for k, v in found.items()} == {
    'features.0.weight': (64, 3, 3, 3)
  }
  (tmp_path / 'a.pb').write_bytes(b'\xff' * 20)
  with pytest.raises(UserError, match='a.pb'):
    session.read_weights(str(tmp_path / 'a.pb'))
