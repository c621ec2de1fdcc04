"""The check of a whole dataset finds what a run would stumble over."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import folder, verify
from ldm_jax.data.spec import DataSpec


@pytest.fixture
def root(tmp_path):
  """Ten images in two classes: one truncated, one no image, one small."""
  root = tmp_path / 'photographs'
  rng = np.random.default_rng(0)
  for i in range(10):
    side = 8 if i == 9 else 16
    pixels = rng.integers(0, 256, (side, side + i, 3), np.uint8)
    path = root / 'ab'[i % 2] / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
  broken = root / 'a' / '4.png'
  broken.write_bytes(broken.read_bytes()[:200])
  (root / 'b' / '5.png').write_text('hello')
  return root


def report_of(root, size=1):
  spec = DataSpec('folder', size, path=str(root))
  return verify.verify(folder.read_folder(str(root)), spec)


def test_the_report_counts(root):
  report = report_of(root)
  assert len(report.shapes) == 8 and report.labels == 2
  assert report.captioned == 0
  assert [name for _, name, _ in report.bad] == [
    str(root / 'a/4.png'),
    str(root / 'b/5.png'),
  ]
  assert 'truncated' in report.bad[0][2] and 'not a PNG' in report.bad[1][2]
  assert report.share == 0.2
  text = str(report)
  assert '10 images' in text and 'b/5.png: not a PNG' in text
  assert 'shorter side: 8 to 16 px' in text


def test_images_too_small_for_the_run_are_counted(root):
  assert len(report_of(root, size=16).bad) == 3


def command(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'ldm_jax.data.verify', *arguments],
    capture_output=True,
    text=True,
  )


def test_the_command(root, tmp_path):
  out = tmp_path / 'bad.jsonl'
  found = command(f'--path={root}', f'--out={out}')
  assert found.returncode == 1
  assert 'cannot be used: 2 (20.00%)' in found.stdout
  lines = [json.loads(line) for line in out.read_text().splitlines()]
  assert [line['path'][-7:] for line in lines] == ['a/4.png', 'b/5.png']

  wrong = command(f'--path={root}', f'--out={out}')
  assert wrong.returncode == 2
  assert wrong.stderr.count('\n') == 1 and 'exists' in wrong.stderr
  assert len(out.read_text().splitlines()) == 2  # Not overwritten.


@pytest.mark.parametrize(
  'flag, message',
  [('--path=nowhere', 'is not a folder'), ('--pathe=x', 'pathe')],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(flag, message):
  found = command(flag)
  assert found.returncode == 2
  assert message in found.stderr and found.stderr.startswith('Error: ')
  assert found.stderr.count('\n') == 1
