"""What numbers take is there, or told to be missing, before any is drawn."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.diffusion.settings import Settings
from ldm_jax.evaluation import inception, npz, random_features
from ldm_jax.measuring import evaluate, numbers
from ldm_jax.measuring.options import Options
from ldm_jax.measuring.session import Session
from ldm_jax.types import UserError
from tests import untrained

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


def test_masks_are_of_a_run_that_inpaints(vq_run, text_run):
  for run, task in ((text_run, 'text'), (vq_run, 'none, of a first stage')):
    found = opened(workdir=str(run), masks='thick_256')
    with pytest.raises(UserError, match=f'the task of this one is {task}'):
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


def stored(tmp_path, max_bad, **options):
  """The session of a run whose data is eight photos, one of them cut off."""
  photos = tmp_path / 'photos'
  photos.mkdir(exist_ok=True)
  for i in range(8):
    pixels = RNG.integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(photos / f'{i}.png')
  (photos / '5.png').write_bytes((photos / '5.png').read_bytes()[:900])
  data = {'source': 'folder', 'path': str(photos), 'max_bad': max_bad}
  found = opened(
    workdir=str(tmp_path), cache=str(tmp_path / 'cache'), **options
  )
  # In place of a checkpoint.
  found._run = 0, untrained.unconditional(data=data | {'num_examples': 0})
  return found


def test_damaged_references_are_left_out_before_anything_is_drawn(tmp_path):
  found = stored(tmp_path, 0.2)
  numbers.check(found, Settings(2))
  assert (found.reference.count, found.reference.left_out) == (7, 1)
  (note,) = evaluate.notes(found, {})
  assert '1 of 8 images' in note and '5.png' in note
  assert evaluate.about(found)['reference']['count'] == 7
  with pytest.raises(UserError, match='over the 1.0% of data.max_bad.*5.png'):
    numbers.check(stored(tmp_path, 0.01), Settings(2))


def test_a_folder_of_references_must_be_whole(tmp_path):
  found = stored(tmp_path, 0.2, reference=str(tmp_path / 'photos'))
  with pytest.raises(UserError, match='5.png'):
    numbers.check(found, Settings(2))


def test_pairs_are_refused_where_one_side_lacks_images(tmp_path):
  found = stored(
    tmp_path,
    0.2,
    metrics=('psnr',),
    samples=str(tmp_path / 'samples'),
  )
  (tmp_path / 'samples').mkdir()
  for i in range(7):
    Image.new('RGB', (32, 32)).save(tmp_path / 'samples' / f'{i}.png')
  with pytest.raises(UserError, match='psnr compare pairs.* 1 cannot be used'):
    numbers.check(found, Settings(2))


@pytest.mark.parametrize('metric', ['random_frechet', 'neighbours'])
def test_sets_of_several_sizes_are_refused_before_anything_is_measured(
  tmp_path, metric
):
  for folder, sizes in (('a', (32, 32)), ('b', (32, 40))):
    (tmp_path / folder).mkdir()
    for i, size in enumerate(sizes):
      Image.new('RGB', (size, 32)).save(tmp_path / folder / f'{i}.png')
  a, b = str(tmp_path / 'a'), str(tmp_path / 'b')
  check = lambda samples, reference: numbers.check(
    opened(
      samples=samples,
      reference=reference,
      metrics=(metric,),
      cache=str(tmp_path / 'cache'),
    )
  )
  check(a, a)
  for pair in ((a, b), (b, a)):
    with pytest.raises(UserError, match='of one size.*32x32, 32x40'):
      check(*pair)


def test_a_single_image_has_no_frechet_distance(text_run):
  found = opened(workdir=str(text_run), metrics=('random_frechet',), num=1)
  with pytest.raises(UserError, match='needs 2 images on either side'):
    numbers.check(found, Settings(2))


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
