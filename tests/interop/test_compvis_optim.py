"""Rates of training as released, and what is said of the rest."""

import re

import pytest

from ldm_jax.interop import compvis_config
from ldm_jax.training.optim import OptimSpec, learning_rate
from tests.interop import released

SCHEDULERS = 'ldm.lr_scheduler.'


def read(make, rate=None, scheduler=None, **values):
  content = make()
  if rate is not None:
    content['model']['base_learning_rate'] = rate
  if scheduler:
    content['model']['params']['scheduler_config'] = {
      'target': SCHEDULERS + scheduler,
      'params': values,
    }
  return compvis_config.read(content)


WARM_UP = {
    'warm_up_steps': [10000], 'cycle_lengths': [10000000000000],
    'f_start': [1e-6], 'f_max': [1.0], 'f_min': [1.0],
}  # fmt: skip
COSINE = {
    'verbosity_interval': 0, 'warm_up_steps': 1000, 'max_decay_steps': 50000,
    'lr_start': 0.001, 'lr_max': 0.1, 'lr_min': 0.0001,
}  # fmt: skip


def test_a_rate_that_no_image_could_have_is_a_batchs():
  small = read(released.faces, 2e-6)
  assert small.config['optim'] == {'learning_rate': 2e-6, 'scale_lr': True}
  assert not small.notes
  large = read(released.churches, 5e-5, 'LambdaLinearScheduler', **WARM_UP)
  assert large.config['optim'] == {
    'learning_rate': 5e-5, 'scale_lr': False, 'warmup_steps': 10_000,
  }  # fmt: skip
  (note,) = large.notes
  assert 'base_learning_rate=5e-05' in note and 'optim.scale_lr=False' in note


def test_inpaintings_rate_is_the_releases_at_every_step():
  found = read(
    released.inpainting, 1e-6, 'LambdaWarmUpCosineScheduler', **COSINE
  )
  assert found.config['num_steps'] == 50_000
  (note,) = found.notes
  assert 'max_decay_steps=50000' in note and 'num_steps' in note
  rate = learning_rate(OptimSpec(**found.config['optim']), 50_000, 8)
  for step, times in ((1_000, 0.1), (25_500, 0.05005), (50_000, 0.0001)):
    assert float(rate(step)) == pytest.approx(8e-6 * times, rel=2e-3)
  assert float(rate(500)) == pytest.approx(8e-6 * 0.05, rel=0.02)


@pytest.mark.parametrize(
  'make', [released.faces, lambda: released.first_stage_config('vq-f4')]
)
@pytest.mark.parametrize(
  ('scheduler', 'values', 'noted'),
  [
    ('CosineAnnealing', {}, 'neAnnealing.*LambdaLinearScheduler'),
    ('LambdaLinearScheduler', WARM_UP | {'f_max': [1, 2]}, 'f_max=.*of one'),
    ('LambdaLinearScheduler', WARM_UP | {'f_max': [0]}, 'f_max=0 .*above 0'),
    ('LambdaLinearScheduler', {}, 'warm_up_steps=None'),
    ('LambdaWarmUpCosineScheduler', {}, 'max_decay_steps=None'),
    (
      'LambdaWarmUpCosineScheduler',
      COSINE | {'warm_up_steps': 50_000},
      'max_decay_steps=50000 .*above warm_up_steps',
    ),
  ],
)  # fmt: skip
def test_a_scheduler_that_is_not_known_is_left_out_and_noted(
  make, scheduler, values, noted
):
  found, without = read(make, None, scheduler, **values), read(make)
  assert found.config == without.config and not without.notes
  (note,) = found.notes
  assert 'left out' in note and re.search(noted, note)


def test_what_a_warm_up_cannot_tell_is_noted():
  values = WARM_UP | {'f_start': [0.5], 'f_min': [0.1]}
  found = read(released.faces, None, 'LambdaLinearScheduler', **values)
  assert found.config['optim']['warmup_steps'] == 10_000
  assert [note.split('=')[0].rpartition('.')[2] for note in found.notes] == [
    'f_start', 'f_min',
  ]  # fmt: skip
