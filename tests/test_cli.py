"""What scripts do around their work: mistakes, and memory."""

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


# Temporary arrays of 128 MiB; the fewest page faults of a call, when all is
# warm (one may meet a heap that something else has just divided).
FAULTS = """
import resource, jax
from ldm_jax import cli
def main():
  program = jax.jit(lambda x: (x[:, None] + x) @ x)
  x = jax.numpy.arange(5793.0)
  counts = [0]
  for _ in range(8):
    program(x).block_until_ready()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
  print(min(b - a for a, b in zip(counts[3:], counts[4:])))
cli.run(main)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='of glibc')
def test_memory_that_a_program_freed_is_there_for_its_next_call():
  """Not mapped anew: 128 MiB are 32,768 pages."""
  done = run('-c', FAULTS)
  assert done.returncode == 0, done.stderr
  assert int(done.stdout) < 3000


# As train.py around its work, without TensorFlow, where attention has a choice.
SAYS = """
import sys, jax
from absl import logging
from ldm_jax import cli
from ldm_jax.nn import attention, backends
from ldm_jax.training import metrics, text_log
def main():
  sys.modules['tensorflow'] = None
  backends.here = lambda: backends.Device('tpu')
  x = jax.numpy.ones((1, 8, 1, 8))
  with text_log.TextLog({workdir!r}), metrics.Writer({workdir!r}):
    logging.info('as orbax does')
    attention.attend(x, x, x)
cli.run(main)
"""


def test_what_is_chosen_and_missing_is_told_and_kept(tmp_path):
  done = run('-c', SAYS.format(workdir=str(tmp_path)))
  assert done.returncode == 0, done.stderr
  for told in (done.stderr, (tmp_path / 'log.txt').read_text()):
    assert 'Attention runs on xla: the flash kernel takes' in told
    assert 'No TensorBoard files: ' in told
    assert 'as orbax does' not in told
