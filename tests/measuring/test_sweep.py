"""A sweep compiles a program for each number of steps, not for each scale."""

import pytest

from ldm_jax.evaluation import report
from ldm_jax.measuring import sweep
from ldm_jax.measuring.options import Options
from ldm_jax.measuring.session import Session
from ldm_jax.types import UserError
from tests.coordinator import Coordinator, join

GRID = sweep.Grid(steps=[2, 3], eta=[0.0, 0.7], guidance=[1.5, 2.0, 4.0])


def test_settings_of_one_program_are_side_by_side():
  rows = sweep.Grid([2, 3], [0.0], [1.0, 2.0, 3.0]).rows()
  kinds = [(row['steps'], row['guidance'] != 1) for row in rows]
  assert len(rows) == 6 and kinds == sorted(kinds)


def test_every_setting_is_drawn_measured_and_kept(
  text_run, tmp_path, monkeypatch
):
  sessions = []
  monkeypatch.setattr(
    sweep, 'Session', lambda *a: sessions.append(Session(*a)) or sessions[-1]
  )
  options = Options(
    workdir=str(text_run),
    num=16,
    batch_size=8,
    metrics=('random_frechet',),
    cache=str(tmp_path / 'cache'),
    out=str(tmp_path),
  )
  found = sweep.run(options, GRID, say=lambda text: None)
  assert len(found['sweep']) == 12
  assert all(row['images_per_second'] > 0 for row in found['sweep'])
  assert len({r['metrics']['random_frechet'] for r in found['sweep']}) > 1
  assert sessions[0].ldm.compiled.sample._cache_size() == 2  # 2 and 3 steps.
  page = (tmp_path / 'sweep' / report.PAGE).read_text()
  assert page.count('<polyline') == 6 + 4  # By speed; by guidance.
  # Again: nothing is drawn, and the speeds are those of then.
  again = sweep.run(options, GRID, say=lambda text: None)
  assert again['sweep'] == found['sweep']


def test_the_others_stay_until_each_setting_is_measured(
  text_run, tmp_path, monkeypatch
):
  coordinator, drawn = Coordinator(), []
  join(monkeypatch, coordinator, 1)
  monkeypatch.setattr(Session, 'drawn', lambda self, *a: drawn.append(a))
  options = Options(
    workdir=str(text_run), metrics=('random_frechet',), out=str(tmp_path)
  )
  assert sweep.run(options, GRID, say=lambda text: None) == {}
  assert len(drawn) == 12 and coordinator.asked == 13  # And for the report.
  assert not list(tmp_path.iterdir())


def test_what_cannot_be_swept(vq_run, text_run, tmp_path):
  with pytest.raises(UserError, match='draws samples'):
    sweep.run(Options(workdir=str(vq_run)), GRID)
  options = Options(workdir=str(text_run), out=str(tmp_path))
  with pytest.raises(UserError, match='steps=2000'):  # The last of them.
    sweep.run(options, sweep.Grid([2, 2000], [0.0], [2.0]))
  assert not list(tmp_path.iterdir())
  options = Options(workdir=str(text_run), metrics=('psnr',))
  with pytest.raises(UserError, match='--metrics=psnr'):
    sweep.run(options, GRID)
