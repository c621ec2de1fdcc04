"""Shards: each whole or not there, of one origin, in any order."""

import jax
import numpy as np
import pytest

from ldm_jax.evaluation.shards import Shards
from ldm_jax.types import UserError

ABOUT = {'seed': 0, 'guidance': 1.5}


def images(first):
  """Image k is full of k."""
  numbers = np.arange(first, first + 4, dtype=np.uint8)
  return np.tile(numbers[:, None, None, None], (1, 2, 2, 3))


def create(folder, num=10, **about):
  return Shards.create(folder, num, 4, {**ABOUT, **about})


def fill(shards):
  for first in list(shards.missing()):
    shards.write(first, images(first))
  return shards


def test_each_image_is_there_once(tmp_path):
  shards = create(tmp_path)
  assert list(shards.missing()) == [0, 4, 8]
  fill(shards)
  assert not list(shards.missing())
  found = [int(Shards.open(tmp_path).read(k).mean()) for k in range(10)]
  assert found == list(range(10))


def test_what_was_cut_off_is_missing(tmp_path):
  shards = fill(create(tmp_path))
  path = tmp_path / '00000004.npy'
  path.write_bytes(path.read_bytes()[:-1])
  (tmp_path / '00000000.npy').rename(tmp_path / '00000000.partial')
  assert list(shards.missing()) == [0, 4]
  with pytest.raises(UserError, match='lacks 2 shards, from image 0'):
    shards.check_whole()


def test_processes_share_the_work(tmp_path):
  shards = create(tmp_path, 33)
  shares = [list(shards.missing(i, 3)) for i in range(3)]
  assert sorted(sum(shares, [])) == list(range(0, 33, 4))
  assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_images_keep_those_that_are_there(tmp_path):
  before = fill(create(tmp_path, 8)).digest()
  more = create(tmp_path, 14)
  assert list(more.missing()) == [8, 12]
  assert fill(more).digest() != before
  assert create(tmp_path, 8).digest() == before


def test_other_settings_are_refused_with_both_values(tmp_path):
  create(tmp_path)
  with pytest.raises(UserError, match='guidance was 1.5 and is 3.0'):
    create(tmp_path, guidance=3.0)
  with pytest.raises(UserError, match='shard_size was 4 and is 5'):
    Shards.create(tmp_path, 10, 5, ABOUT)


def test_foreign_files_are_not_written_among(tmp_path):
  (tmp_path / 'thesis.txt').write_text('mine')
  with pytest.raises(UserError, match='nothing is overwritten'):
    create(tmp_path)


def test_of_several_processes_one_begins_and_the_others_compare(tmp_path):
  other = lambda **about: Shards.create(tmp_path, 10, 4, about, write=False)
  with pytest.raises(UserError, match='cannot be read'):
    other(**ABOUT)
  assert not list(tmp_path.iterdir())
  create(tmp_path)
  before = (tmp_path / 'shards.json').stat().st_ino
  assert list(other(**ABOUT).missing(1, 2)) == [4]
  with pytest.raises(UserError, match='guidance was 1.5 and is 3.0'):
    other(seed=0, guidance=3.0)
  assert (tmp_path / 'shards.json').stat().st_ino == before


def test_no_two_processes_write_into_the_same_file(tmp_path, monkeypatch):
  shards, begun = create(tmp_path), []
  save = lambda file, x: begun.append(str(file.name))
  monkeypatch.setattr(np, 'save', save)
  for rank in (0, 1):
    monkeypatch.setattr(jax, 'process_index', lambda rank=rank: rank)
    shards.write(0, images(0))
  assert len({*begun, str(tmp_path / '00000000.npy')}) == 3


def test_what_a_kill_left_is_removed_by_the_next_start(tmp_path):
  create(tmp_path)
  (tmp_path / '00000000.npy.3-77.partial').write_bytes(b'half')
  create(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ['shards.json']


def test_half_a_shard_is_none(tmp_path):
  with pytest.raises(ValueError, match='no shard'):
    create(tmp_path).write(0, images(0)[:3])
