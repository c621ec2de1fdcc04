"""A dry run says what training would be, and writes nothing."""

from ldm_jax import dry_run
from tests import tiny


def test_everything_is_said(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = tiny.diffusion(mesh={'data': 1})
  assert dry_run.report(config) == 0
  said = capsys.readouterr().out
  for words in ('"num_steps": 20', 'parameters of the U-Net: ',
                'parameters of the conditioner: ', 'memory of a device: ',
                'checkpoint: ', 's a step', 'for 20 steps'):  # fmt: skip
    assert words in said
  assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_not_tried(capsys, monkeypatch):
  monkeypatch.setattr(dry_run, 'free_bytes', lambda: 2**20)
  assert dry_run.report(tiny.first_stage(mesh={'data': 1})) == 0
  assert 'this does not fit' in capsys.readouterr().out
