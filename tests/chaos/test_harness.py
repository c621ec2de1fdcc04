"""Every row of the harness exists, is documented, and holds (slow)."""

import ast
import pathlib
import subprocess
import sys

import pytest

from tests.chaos import harness

ROOT = pathlib.Path(__file__).parents[2]


def test_every_row_is_a_generator_and_is_documented():
  docs = (ROOT / 'docs' / 'reliability.md').read_text()
  for name, (module, full, short) in harness.ROWS.items():
    tree = ast.parse((ROOT / 'tests' / 'chaos' / f'{module}.py').read_text())
    functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    assert name in functions
    assert f'| `{name}` |' in docs
    assert 0 < short <= full


@pytest.mark.slow
@pytest.mark.parametrize('name', harness.ROWS)
def test_a_row_is_held(name):
  command = [sys.executable, '-m', 'tests.chaos', f'--only={name}']
  done = subprocess.run(
    [*command, '--count=1'], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
