"""What a user sees of a mistake: one line on stderr, and exit code 2."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCENES = '--config=configs/text_scenes.py:tiny'


def run(*arguments):
  return subprocess.run(
    [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True
  )


@pytest.mark.parametrize(
  ('arguments', 'says'),
  [
    (['train.py', SCENES, '--workdir={tmp}', '--config.unet.chanels=3'],
     'chanels'),
    (['train.py', SCENES, '--workdir={tmp}', '--config.batch_size=a'],
     'batch_size'),
    (['train.py', '--workdir={tmp}'], '--config is missing'),
    (['train.py', '--config=configs/nope.py', '--workdir={tmp}'],
     "No such file or directory: 'configs/nope.py'"),
    (['train.py', '--config=configs/text_scenes.py:tny', '--workdir={tmp}'],
     "Error: No variant 'tny' of this config; it has: tiny."),
    (['train.py', SCENES, '--config.loss.kid=l1', '--workdir={tmp}'],
     'Did you mean "kind" instead of "kid"?'),
    (['train.py', SCENES, '--workdir={tmp}',
      '--config.data.source=folder', '--config.data.path={tmp}'],
     'No images'),
    (['sample.py', '--workdir={tmp}', '--out={tmp}/out'],
     'Is {tmp} the workdir of a run?'),
    (['evaluate.py', '--workdir={tmp}', '--metrics=beauty'], "'beauty'"),
    (['train.py', SCENES, '--wrkdir={tmp}'], 'wrkdir'),
  ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(arguments, says, tmp_path):
  fill = lambda text: text.replace('{tmp}', str(tmp_path))
  done = run(*map(fill, arguments))
  assert done.returncode == 2, done.stderr
  lines = done.stderr.strip().splitlines()
  assert lines[-1].startswith('Error: ') and fill(says) in lines[-1]
  assert 'Traceback' not in done.stderr
  assert not list(tmp_path.iterdir())
