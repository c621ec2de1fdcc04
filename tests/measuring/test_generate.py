"""Generation goes on after a kill: the same images, each once."""

import copy
import dataclasses

import numpy as np
import pytest

import ldm_jax
from ldm_jax.diffusion.settings import Settings
from ldm_jax.evaluation.shards import Shards
from ldm_jax.measuring import generate
from ldm_jax.tasks import class_label
from ldm_jax.types import UserError
from tests import untrained
from tests.coordinator import Coordinator, join

SETTINGS = Settings(steps=2, guidance=2.0, eta=0.5)


@pytest.fixture(scope='module')
def ldm(text_run):
  return ldm_jax.load(text_run)


def draw(ldm, folder, num=19, settings=SETTINGS, say=lambda text: None):
  conditions = generate.Conditions(ldm, '', 3)
  return generate.draw(ldm, str(folder), num, settings, conditions, 8, say)


class Killed(Exception):
  pass


def test_killed_and_run_again(ldm, tmp_path):
  whole, pace = draw(ldm, tmp_path / 'whole')
  assert pace['images'] == 24 and pace['images_per_second'] > 0
  assert 0 < pace['share_outside_network'] < 1

  def kill(text):
    raise Killed

  with pytest.raises(Killed):
    draw(ldm, tmp_path / 'parts', say=kill)
  first = Shards.open(tmp_path / 'parts')
  assert list(first.missing()) == [8, 16]
  # A kill while a shard was written leaves this behind.
  (tmp_path / 'parts' / '00000008.partial').write_bytes(b'half')
  said = []
  again, pace = draw(ldm, tmp_path / 'parts', say=said.append)
  assert 'going on' in said[0] and pace['images'] == 16
  assert again.num == whole.num == 19
  names = lambda folder: {p.name for p in folder.glob('*.npy')}
  assert names(tmp_path / 'whole') == names(tmp_path / 'parts')
  for k in range(19):
    np.testing.assert_array_equal(again.read(k), whole.read(k))
  assert draw(ldm, tmp_path / 'parts')[1] == {
    'images': 0,
    'images_per_second': None,
    'share_outside_network': None,
  }


def test_only_the_first_process_begins_a_folder(ldm, tmp_path, monkeypatch):
  coordinator = Coordinator()
  join(monkeypatch, coordinator, 1)
  with pytest.raises(UserError, match='cannot be read'):  # Nobody has begun it.
    draw(ldm, tmp_path)
  assert coordinator.asked == 1 and not list(tmp_path.iterdir())


def test_other_settings_or_weights_do_not_mix(ldm, tmp_path):
  draw(ldm, tmp_path, 8)
  with pytest.raises(UserError, match='guidance was 2.0 and is 3.0'):
    draw(ldm, tmp_path, 8, dataclasses.replace(SETTINGS, guidance=3.0))
  params = dict(ldm.params)
  digest = generate.weights_digest(ldm)
  ldm.params = {**params, 'ema': {'x': np.ones(3)}}
  changed = generate.weights_digest(ldm)
  ldm.params = params
  assert changed != digest == generate.weights_digest(ldm)


def test_impossible_settings_begin_no_folder(ldm, tmp_path):
  for wrong, says in (
    ({'steps': 0}, 'steps=0'),
    ({'spacing': 'even'}, 'spacing='),
    ({'threshold': 0.9}, 'threshold=0.9'),
  ):
    settings = dataclasses.replace(SETTINGS, **wrong)
    with pytest.raises(UserError, match=says):
      draw(ldm, tmp_path / 'out', settings=settings)
  with pytest.raises(UserError, match='no split'):
    conditions = generate.Conditions(ldm, 'typo', 0)
    generate.draw(ldm, tmp_path / 'out', 8, SETTINGS, conditions, 8)
  assert not list(tmp_path.iterdir())


def test_conditions_are_the_splits_in_turn(ldm):
  conditions = generate.Conditions(ldm, 'validation', 0)
  told, arrays = conditions.of(3, 4)
  whole, _ = conditions.of(0, 7)
  assert told['text'] == whole['text'][3:]
  assert set(arrays) == {'tokens'} and len(arrays['tokens']) == 4
  source = conditions._source
  again, _ = conditions.of(len(source) + 3, 4)
  assert again['text'] == told['text']


def test_balanced_classes_leave_out_the_null(ldm):
  class Classes:
    class parts:
      class data:
        size, eval_split = 32, 'validation'

      prepare = class_label.Prepare(4, null_label=True)

  conditions = generate.Conditions(Classes, '', 0)
  told, arrays = conditions.of(2, 5)
  assert told['label'] == arrays['label'].tolist() == [2, 0, 1, 2, 0]
  with pytest.raises(UserError, match='balanced'):
    generate.Conditions(ldm, 'balanced', 0)


@pytest.fixture(scope='module')
def inpainting():
  return untrained.pipeline(
    task={'name': 'inpainting'}, unet={'attention': 'self'}
  )


def test_masks_of_an_evaluation_are_those_that_it_names(inpainting, tmp_path):
  masks = lambda *name: generate.Conditions(inpainting, '', 0, *name).of(0, 4)[
    1
  ]['mask']
  own, thin = masks(), masks('thin_256')
  assert (own != thin).any() and thin.mean((1, 2, 3)).max() <= 0.5
  np.testing.assert_array_equal(own, masks('lama_256'))
  draw = lambda *name: generate.draw(
    inpainting,
    str(tmp_path / 'samples'),
    2,
    Settings(1),
    generate.Conditions(inpainting, '', 0, *name),
    2,
    lambda text: None,
  )
  shards, _ = draw('thin_256')
  assert shards.about['masks'] == 'thin_256'
  for others, was in ((('thick_256',), 'is .thick_256'), ((), 'is None')):
    with pytest.raises(UserError, match=f"masks was 'thin_256' and {was}"):
      draw(*others)


def test_masks_are_refused_where_none_are_drawn(ldm, inpainting):
  with pytest.raises(UserError, match='--masks=thin_256 .* this one is text'):
    generate.Conditions(ldm, '', 0, 'thin_256')
  stored = copy.copy(inpainting)
  data = dataclasses.replace(inpainting.parts.data, source='masks')
  stored.parts = dataclasses.replace(inpainting.parts, data=data)
  with pytest.raises(UserError, match='a mask for each image'):
    generate.Conditions(stored, '', 0, 'thin_256')
