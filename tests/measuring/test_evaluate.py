"""Evaluations end to end: a run, a first stage, two sets of images."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ldm_jax.diffusion.settings import Settings
from ldm_jax.evaluation import inception, npz, protocols, report
from ldm_jax.evaluation.features import Network
from ldm_jax.measuring import evaluate
from ldm_jax.measuring.options import Options
from ldm_jax.measuring.session import Session
from ldm_jax.types import UserError
from tests.coordinator import Coordinator, join

RNG = np.random.default_rng(0)
QUIET = lambda text: None


def run(**options):
  return evaluate.run(Options(**options), say=QUIET)


def test_a_run_without_any_file_of_weights(text_run, tmp_path):
  options = dict(
    workdir=str(text_run),
    num=11,
    batch_size=8,
    cache=str(tmp_path / 'cache'),
    settings=Settings(steps=2, guidance=2.0),
  )
  found = run(**options)
  out = text_run / 'evaluation' / 'step_0000002'
  assert (
    json.loads((out / report.JSON).read_text())['metrics'] == (found['metrics'])
  )
  assert found['metrics']['random_frechet'] > 0
  assert set(found['metrics']) >= {'scene_all', 'scene_colour'}
  assert found['samples']['count'] == 11
  assert found['reference'] == {'name': 'scenes (train)', 'count': 20}
  assert found['drawn_with']['guidance'] == 2.0
  assert 'protocol' not in found and 'jax' in found['versions']
  page = (out / report.PAGE).read_text()
  assert 'it is not FID' in page and page.count('data:image/png') == 2
  # Again: nothing is drawn, no reference is measured, the same is found.
  again = run(**options)
  assert again['metrics'] == found['metrics']
  assert again['pace']['generation']['images'] == 0
  assert len(again['pace']) == 2 < len(found['pace'])


def test_a_first_stage(vq_run, tmp_path):
  found = run(workdir=str(vq_run), num=10, batch_size=8, out=str(tmp_path))
  metrics = found['metrics']
  assert metrics['pairs'] == 10 and 5 < metrics['psnr'] < 40
  assert 0 < metrics['codebook_usage'] <= 1
  assert metrics['random_rfrechet'] > 0
  with pytest.raises(UserError, match='is a first stage'):
    run(workdir=str(vq_run), metrics=('random_frechet',))


@pytest.fixture
def small_inception(monkeypatch):
  """Three colours in place of Inception, which tests/parity has."""
  apply = lambda params, x: {
    'pool': jnp.concatenate([x.mean((1, 2)), x.std((1, 2))], 1) / 99,
    'spatial': x[:, 0, 0] / 99,
    'logits': x.mean((1, 2)) / 30,
  }
  about = {'is_the_published_file': False}
  network = Network('small', {}, apply, 24, about)
  monkeypatch.setattr(inception, 'load', lambda path, read: network)


def folder(path, shift=0):
  path.mkdir()
  for i in range(40):
    level = RNG.integers(0, 200, 3) + shift
    pixels = RNG.integers(0, 50, (16, 20, 3)) + level
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
      path / f'{i:02d}.png'
    )
  return str(path)


def test_two_folders_under_inception(small_inception, tmp_path):
  a, b = folder(tmp_path / 'a'), folder(tmp_path / 'b', 30)
  options = dict(
    samples=a,
    reference=b,
    metrics=('fid', 'sfid', 'kid', 'is', 'pr', 'dc', 'psnr'),
    inception='x.pth',
    cache=str(tmp_path / 'cache'),
    out=str(tmp_path / 'out'),
    save_npz=str(tmp_path / 'a.npz'),
    protocol=protocols.find('adm', kid_subset_size=30),
  )
  found = run(**options)
  assert set(found['metrics']) == {
    'fid', 'sfid', 'kid', 'kid_std', 'is', 'is_std', 'precision', 'recall',
    'precision_float16', 'recall_float16', 'density', 'coverage', 'psnr',
    'pairs',
  }  # fmt: skip
  assert found['protocol']['name'] == 'adm'
  notes = ' '.join(found['notes'])
  assert '40 images is biased' in notes and 'published' in notes
  # The npz that was saved stands for the folder, as sample and as reference.
  saved = str(tmp_path / 'a.npz')
  assert npz.read_images(saved).shape == (40, 16, 20, 3)
  again = run(**{**options, 'samples': saved, 'save_npz': ''})
  assert again['metrics'] == pytest.approx(found['metrics'], rel=1e-6)
  same = run(**{**options, 'reference': saved, 'metrics': ('fid', 'sfid')})
  assert max(same['metrics'].values()) < 1e-6


def test_nothing_is_drawn_in_vain(text_run, tmp_path):
  for metrics, says in ((('random_frechet', 'fid'), '--inception is missing'),
                        (('random_frechet', 'lpips'), '--lpips')):  # fmt: skip
    with pytest.raises(UserError, match=says):
      run(workdir=str(text_run), metrics=metrics, out=str(tmp_path))
  assert not list(tmp_path.iterdir())


def test_the_others_stay_until_the_first_has_measured(tmp_path, monkeypatch):
  """Or it would be ended while it measures, for want of them."""
  coordinator = Coordinator(late=3)
  join(monkeypatch, coordinator, 1)
  out = tmp_path / 'out'
  found = run(
    samples=folder(tmp_path / 'a'),
    reference=folder(tmp_path / 'b'),
    metrics=('random_frechet',),
    out=str(out),
  )
  assert found == {} and coordinator.asked == 4 and not out.exists()


def test_the_note_on_fid_draws_nothing(text_run):
  """A sweep has none of the session's own samples."""
  session = Session(Options(workdir=str(text_run), num=10), say=print)
  notes = evaluate.notes(session, {'fid': 1.0})
  assert any('FID of 10 images' in note for note in notes)
  assert 'samples' not in session.__dict__


def test_versions_name_the_devices():
  assert evaluate.versions()['devices'].startswith('8 x')
