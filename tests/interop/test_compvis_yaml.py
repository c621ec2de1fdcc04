"""YAML as data."""

import pytest

from ldm_jax.interop import compvis_yaml
from ldm_jax.types import UserError


def load(tmp_path, text):
  path = tmp_path / 'config.yaml'
  path.write_bytes(text.encode() if isinstance(text, str) else text)
  return compvis_yaml.load(str(path))


def test_numbers_are_those_of_omegaconf(tmp_path):
  content = load(
    tmp_path, 'a: 1e-6\nb: 2.0e-06\nc: 5.\nd: 1.e-4\ne: 10\nf: -1E3\ng: e5'
  )
  assert content == {
    'a': 1e-6, 'b': 2e-6, 'c': 5.0, 'd': 1e-4, 'e': 10, 'f': -1000.0, 'g': 'e5',
  }  # fmt: skip


@pytest.mark.parametrize(
  'text',
  [
    'a: !!python/object/apply:os.system ["touch executed"]',
    'a: !!python/name:os.system',
    'a: [1',
    b'\xff\xfe\x00\x01',
    '- 1',
    '',
    'a: ' + '[' * 100_000,
    'a: ' + 'x' * 2**21,
  ],
)
def test_other_things_are_refused_in_one_line(tmp_path, text, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match='config.yaml') as error:
    load(tmp_path, text)
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'executed').exists()


def test_a_file_that_is_not_there_is_named(tmp_path):
  with pytest.raises(UserError, match='nothing.yaml'):
    compvis_yaml.load(str(tmp_path / 'nothing.yaml'))


def test_aliases_do_not_multiply(tmp_path):
  lines = ['a0: &a0 [x, x]'] + [
    f'a{i}: &a{i} [*a{i - 1}, *a{i - 1}]' for i in range(1, 60)
  ]
  content = load(tmp_path, '\n'.join(lines))
  assert len(content) == 60
