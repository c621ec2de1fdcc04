"""Tests for ldm_jax.training.text_log."""

import logging

import pytest

from ldm_jax.training import text_log
from ldm_jax.types import UserError


def test_notes_warnings_and_what_ends_a_run_are_kept(tmp_path, capsys):
  with pytest.raises(ValueError), text_log.TextLog(tmp_path / 'run'):
    text_log.note('step 1')
    text_log.say('Going on.')
    logging.getLogger('somewhere').warning('a bad %s', 'image')
    raise ValueError('no more')
  text_log.note('after')
  said = (tmp_path / 'run' / 'log.txt').read_text()
  kept = ('INFO step 1', 'INFO Going on.', 'WARNING a bad image', 'no more')
  assert all(line in said for line in kept) and 'after' not in said
  assert 'Traceback' in said
  assert capsys.readouterr().out == 'Going on.\n'


def test_a_mistake_leaves_no_file(tmp_path):
  with pytest.raises(UserError), text_log.TextLog(tmp_path / 'run'):
    raise UserError('no such data')
  assert not (tmp_path / 'run').exists()


def test_it_never_grows_beyond_four_files(tmp_path):
  with text_log.TextLog(tmp_path, size=1000):
    for i in range(1000):
      text_log.note(f'line {i}')
  files = sorted(path.name for path in tmp_path.iterdir())
  assert files == ['log.txt', 'log.txt.1', 'log.txt.2', 'log.txt.3']
  assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
  assert (tmp_path / 'log.txt').read_text().endswith('line 999\n')


def test_a_run_that_goes_on_adds_to_it(tmp_path):
  for line in ('first', 'second'):
    with text_log.TextLog(tmp_path):
      text_log.note(line)
  lines = (tmp_path / 'log.txt').read_text().splitlines()
  assert [line.split()[-1] for line in lines] == ['first', 'second']
