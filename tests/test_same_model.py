"""What a workdir may hold for a config to go on with it."""

import pytest

from ldm_jax import same_model
from ldm_jax.training import checkpoint
from ldm_jax.types import UserError
from tests import tiny


def test_a_key_that_is_left_out_is_its_default(tmp_path):
  checkpoint.write_config(tmp_path, tiny.diffusion())
  task = {'dropout': 0.0, 'attention_backend': None, 'length': 16}
  unet = {'num_res_blocks': 1, 'transformer_depth': 1, 'resblock_updown': False}
  first_stage = {'attention_levels': (), 'in_channels': 3, 'remat': False}
  config = tiny.diffusion(task=task, unet=unet, first_stage=first_stage)
  same_model.check_workdir(tmp_path, config)
  config = tiny.diffusion(unet={'transformer_depth': 2})
  with pytest.raises(UserError) as error:
    same_model.check_workdir(tmp_path, config)
  assert str(error.value).splitlines()[1:] == [
    '  unet.transformer_depth: 1 there, 2 here'
  ]


def test_a_run_out_of_memory_goes_on_with_less_of_it(tmp_path):
  checkpoint.write_config(tmp_path, tiny.diffusion())
  config = tiny.diffusion(unet={'remat': True}, grad_accum=2, dtype='bfloat16')
  same_model.check_workdir(tmp_path, config)


def test_a_vocabulary_is_what_stands_in_it(tmp_path):
  there, moved, other = (tmp_path / f'{i}.txt' for i in range(3))
  there.write_text('[PAD]')
  moved.write_text('[PAD]')
  other.write_text('[UNK]')
  workdir = tmp_path / 'run'
  with_vocabulary = lambda p: tiny.diffusion(task={'vocab_file': str(p)})
  checkpoint.write_config(workdir, with_vocabulary(there))
  same_model.check_workdir(workdir, with_vocabulary(moved))
  with pytest.raises(UserError, match='task.vocabulary'):
    same_model.check_workdir(workdir, with_vocabulary(other))
  there.unlink()  # Then nobody knows, and sizes alone are compared.
  same_model.check_workdir(workdir, with_vocabulary(other))


def test_a_config_of_another_tool_is_told(tmp_path):
  (tmp_path / 'config.json').write_text('{"architectures": ["Bert"]}')
  with pytest.raises(UserError, match='was not written by a run'):
    same_model.check_workdir(tmp_path, tiny.diffusion())


@pytest.mark.parametrize(
  ('task', 'others'),
  [
    ({'name': 'super_resolution'}, {'degradation': 'bsr'}),
    ({'name': 'inpainting'}, {'masks': 'thick_256'}),
    ({'name': 'semantic', 'num_classes': 9}, {'ignore_index': 0}),
    (
      {'name': 'class_label', 'num_classes': 9, 'width': 16},
      {'null_label': True},
    ),
    ({'name': 'layout', 'width': 16, 'depth': 1}, {'num_classes': 40}),
  ],
)
def test_a_run_starts_from_one_whose_data_is_made_otherwise(
  tmp_path, task, others
):
  config = tiny.diffusion() | {'task': task}
  checkpoint.write_config(tmp_path, config)
  changed = {'task': {**task, **others}, 'null_prob': 0.0, 'dtype': 'bfloat16'}
  same_model.check_start(tmp_path, config | changed)


def test_a_run_starts_from_one_of_the_same_words_alone(tmp_path):
  here, there = (tmp_path / name for name in ('here.txt', 'there.txt'))
  here.write_text('[PAD]')
  there.write_text('[UNK]')
  config = tiny.diffusion(task={'vocab_file': str(there)})
  checkpoint.write_config(tmp_path / 'run', config)
  config = tiny.diffusion(task={'vocab_file': str(here)})
  with pytest.raises(UserError, match='task.vocabulary'):
    same_model.check_start(tmp_path / 'run', config)


def test_what_a_network_was_trained_for_is_warned_of(tmp_path, caplog):
  config = tiny.diffusion(loss={'prediction': 'v'}, schedule={'end': 0.012})
  checkpoint.write_config(tmp_path, config)
  warn = same_model.warn_of_another_target
  with caplog.at_level('WARNING'):
    warn(tmp_path, config)
    assert not caplog.records
    warn(tmp_path, tiny.diffusion())
  assert 'loss.prediction=v there and eps here' in caplog.text
  assert "schedule={'end': 0.012} there and the default here" in caplog.text


@pytest.mark.parametrize(
  ('changes', 'differs'),
  [
    ({'loss': {'prediction': 'v'}}, 'loss.prediction=eps there and v here'),
    ({'schedule': {'kind': 'cosine'}}, 'schedule=the default there'),
    ({'scale_factor': 0.18215}, 'scale_factor=measured there and 0.18215 here'),
  ],
)
def test_a_run_does_not_go_on_with_weights_that_mean_another_thing(
  tmp_path, changes, differs
):
  config = tiny.diffusion()
  checkpoint.write_config(tmp_path, config)
  same_model.check_workdir(tmp_path, tiny.diffusion(batch_size=16))
  with pytest.raises(UserError, match=f'{differs}.*init_from'):
    same_model.check_workdir(tmp_path, tiny.diffusion(**changes))
  # And a first stage has neither.
  first = tmp_path / 'first'
  checkpoint.write_config(first, tiny.first_stage())
  same_model.check_workdir(first, tiny.first_stage(loss={'disc_weight': 0.1}))
