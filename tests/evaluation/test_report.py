"""Reports: numbers come back, and the page needs nothing but itself."""

import json

import numpy as np

from ldm_jax.evaluation import report

ROWS = [
  {
    'steps': steps,
    'eta': 0.0,
    'guidance': guidance,
    'images_per_second': 100 / steps,
    'metrics': {'random_frechet': steps / guidance, 'recall': None},
  }
  for steps in (5, 10)
  for guidance in (1.0, 2.0)
]


def test_numbers_and_pictures(tmp_path):
  content = {
    'metrics': {'fid': 12.25, 'psnr': np.inf, 'images': np.int64(3)},
    'protocol': {'name': 'adm <x>', 'inner': {'k': 3}},
    'notes': ['Mind & gap.'],
  }
  picture = np.zeros((4, 6, 3), np.uint8)
  page = report.write(tmp_path / 'a', 'A <title>', content, {'Grid': picture})
  found = json.loads((tmp_path / 'a' / report.JSON).read_text())
  assert found['metrics'] == {'fid': 12.25, 'psnr': None, 'images': 3}
  text = page.read_text()
  for part in (
    'A &lt;title&gt;', 'FID', '12.25', 'adm &lt;x&gt;', 'Mind &amp; gap.',
    'data:image/png;base64,',
  ):  # fmt: skip
    assert part in text
  assert 'http' not in text and '<script' not in text


def test_a_sweep_has_a_line_for_each_scale():
  charts = report.sweep_charts(ROWS)
  speed = charts['Random-feature Fréchet distance (not FID) against speed']
  assert 'guidance 1, eta 0' in speed and 'guidance 2, eta 0' in speed
  assert speed.count('<polyline') == 2
  assert any('against guidance' in name for name in charts)


def test_random_distances_are_never_called_fid():
  for name in ('random_frechet', 'random_rfrechet'):
    title = report.title_of(name)
    assert 'Random' in title
    assert 'FID' not in title.replace('(not FID)', '')


def test_a_runs_history_is_its_log_and_its_reports(tmp_path):
  rows = [{'step': s, 'eval_psnr': 20.0 + s, 'loss': 1.0} for s in (1, 2)]
  lines = [json.dumps(row) for row in rows] + ['{"torn']
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(lines))
  for step in (7, 3):
    content = {'step': step, 'metrics': {'fid': float(step)}}
    report.write(tmp_path / 'evaluation' / f'step_{step}', 'x', content)
  found = report.over_training(tmp_path)
  assert [(x, y) for x, y, _ in found['eval_psnr']] == [(1, 21), (2, 22)]
  assert [(x, y) for x, y, _ in found['fid']] == [(3, 3), (7, 7)]
  assert set(report.training_charts(tmp_path)) == {
    'eval psnr over training', 'FID over training',
  }  # fmt: skip
