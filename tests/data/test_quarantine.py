"""Bad images are counted, named once, and not tolerated beyond a share."""

import json
import random

import pytest

from ldm_jax.data import quarantine
from ldm_jax.types import UserError


def packed(*indices):
  return quarantine.pack([[(i, f'file{i}', 'damaged')] for i in indices])


def test_candidates_are_the_index_and_then_a_fixed_choice():
  first = list(quarantine.candidates(5, 1000))
  assert first[0] == 5 and first == list(quarantine.candidates(5, 1000))
  assert first[1:] != list(quarantine.candidates(6, 1000))[1:]
  assert all(0 <= i < 1000 for i in first)
  assert len(set(first)) > 10


def test_a_run_with_as_many_bad_images_as_allowed_goes_on_for_epochs():
  rng = random.Random(0)
  watch = quarantine.Quarantine(10_000, 0.01)
  for _ in range(4):  # Epochs; 100 of the 10,000 are bad: exactly 1%.
    order = rng.sample(range(10_000), 10_000)
    for begin in range(0, 10_000, 50):
      found = [i for i in order[begin : begin + 50] if i % 100 == 7]
      watch.observe(packed(*found) if found else '', 50)
  assert watch.num_bad == 400


def test_one_bad_image_over_the_share_stops_it_in_the_end():
  watch = quarantine.Quarantine(1000, 0.01)
  for i in range(10):
    watch.observe(packed(i), 10_000)
  watch.observe(packed(3), 10_000)  # Known: not one more.
  with pytest.raises(UserError, match='11 images.*1.0%.*file99: damaged'):
    watch.observe(packed(99), 10_000)


@pytest.mark.parametrize('bad_in_a_hundred, most', [(50, 40), (10, 300)])
def test_a_broken_large_set_is_noticed_long_before_its_end(
  bad_in_a_hundred, most
):
  watch = quarantine.Quarantine(10**7, 0.01)
  with pytest.raises(UserError):
    for i in range(10**7):
      bad = i * 37 % 100 < bad_in_a_hundred
      watch.observe(packed(i) if bad else '', 1)
  assert watch.num_read <= most


def test_none_allowed_means_none():
  watch = quarantine.Quarantine(10**7, 0.0)
  watch.observe('', 10**6)
  with pytest.raises(UserError):
    watch.observe(packed(4), 1)


def test_each_bad_image_is_written_and_logged_once(tmp_path, caplog):
  watch = quarantine.Quarantine(1000, 0.5, str(tmp_path / 'new'))
  for _ in range(3):
    watch.observe(packed(4, 5), 100)
  lines = (tmp_path / 'new' / 'quarantine.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {'example_id': 4, 'path': 'file4', 'reason': 'damaged'},
    {'example_id': 5, 'path': 'file5', 'reason': 'damaged'},
  ]
  assert caplog.text.count('file4') == 1


def test_a_resumed_run_does_not_write_them_again(tmp_path):
  for _ in range(2):
    watch = quarantine.Quarantine(1000, 0.5, str(tmp_path))
    watch.observe(packed(4), 100)
  lines = (tmp_path / 'quarantine.jsonl').read_text().splitlines()
  assert len(lines) == 1


def test_processes_write_files_of_their_own(tmp_path):
  for index in (0, 1):
    watch = quarantine.Quarantine(1000, 0.5, str(tmp_path), index)
    watch.observe(packed(4), 100)
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['quarantine-1.jsonl', 'quarantine.jsonl']
