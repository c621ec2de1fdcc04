"""What numbers take is there, or told to be missing, before any is drawn."""

import numpy as np
import pytest

from ldm_jax.diffusion.settings import Settings
from ldm_jax.evaluation import inception, npz, random_features
from ldm_jax.measuring import numbers
from ldm_jax.measuring.options import Options
from ldm_jax.measuring.session import Session
from ldm_jax.types import UserError

RNG = np.random.default_rng(0)


def opened(**options):
  return Session(Options(**options), say=lambda text: None)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'metrics': ('fid',)}, '--inception is missing'),
    ({'metrics': ('fid',), 'inception': 'x.pth'}, '--inception=x.pth is no'),
    ({'metrics': ('neighbours',), 'vgg': 'x.pth'}, '--vgg=x.pth is no'),
    ({'metrics': ('lpips',)}, '--metrics=lpips needs --lpips'),
    ({'reference': 'typo'}, "no split 'typo'"),
    ({'inputs': 'typo'}, "no split 'typo'"),
    ({'metrics': ('psnr',), 'inputs': 'typo'}, "no split 'typo'"),
    ({'metrics': ('codebook',)}, 'needs a VQ first stage'),
    ({'save_npz': 'a.npz'}, '--save_npz=a.npz .* needs --inception and one of'),
    ({'metrics': ('kid',), 'num': 9}, 'KID needs 1000 images .* one has 9'),
    ({'metrics': ('kid',), 'num': 1000}, 'KID needs 1000 .* one has 20'),
    ({'metrics': ('dc',), 'reference_num': 5}, '5 images have no neighbour'),
  ],
)
def test_what_is_missing_is_found_before_anything_is_drawn(
  text_run, options, message, monkeypatch
):
  if {'kid', 'dc'} & {*options.get('metrics', ())}:
    network = random_features.network()
    monkeypatch.setattr(inception, 'load', lambda path, read: network)
  found = opened(workdir=str(text_run), **options)
  with pytest.raises(UserError, match=message):
    numbers.check(found, Settings(2))


@pytest.mark.parametrize('option', ['out', 'cache', 'save_npz'])
def test_a_place_that_cannot_be_written_is_found_before_too(
  text_run, option, tmp_path
):
  (tmp_path / 'file').write_text('')
  found = opened(workdir=str(text_run), **{option: str(tmp_path / 'file/new')})
  with pytest.raises(UserError, match=f'--{option}=.*file is a file, not a'):
    numbers.check(found, Settings(2))
  assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_what_is_possible_passes(text_run, vq_run):
  numbers.check(opened(workdir=str(text_run)), Settings(2))
  numbers.check(opened(workdir=str(vq_run)), Settings(2))


def test_a_reference_npz_speaks_for_itself(tmp_path):
  """Its mu and sigma are taken; its images only where they are needed."""
  given = {'pool': (RNG.random(3), np.eye(3))}
  npz.write(tmp_path / 'stats.npz', statistics=given)
  found = opened(samples='x', reference=str(tmp_path / 'stats.npz'))
  network = type('Network', (), {'size': 299, 'name': 'net'})
  wanted = {'moments': ('pool',), 'rows': ()}
  found = numbers.reference_statistics(found, network, wanted)
  np.testing.assert_array_equal(found.moments['pool'][0], given['pool'][0])
  found = opened(samples='x', reference=str(tmp_path / 'stats.npz'))
  with pytest.raises(UserError, match='arr_0'):
    wanted = {'moments': (), 'rows': ('pool',)}
    numbers.reference_statistics(found, network, wanted)
