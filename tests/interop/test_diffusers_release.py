"""Tests for ldm_jax.interop.diffusers_release: what it writes reads back."""

import numpy as np
import pytest

from ldm_jax.diffusion import schedule as schedules
from ldm_jax.interop import diffusers_config, diffusers_release
from ldm_jax.types import UserError
from tests.interop import folders

UNETS = {
  'heads': folders.UNET,
  'a width': folders.UNET | dict(num_heads=None, head_width=4),
  'self': folders.PLAIN,
  'one head': folders.PLAIN | dict(head_width=None, num_heads=1),
  'blocks resample': folders.PLAIN
  | dict(scale_shift_norm=True, resblock_updown=True, attention_levels=(1,)),
}


@pytest.mark.parametrize('name', UNETS)
def test_unets_come_back(name):
  section = UNETS[name]
  cross = section['attention'] == 'cross'
  written = diffusers_release.unet(section, 5, 6 if cross else 0, 8)
  back, in_channels, context, size = diffusers_config.unet(written, 'config')
  assert (in_channels, context, size) == (5, 6 if cross else 0, 8)
  wanted = {k: v for k, v in section.items() if v is not None}
  if not cross:
    wanted.pop('transformer_depth')
  assert back == wanted


def test_heads_in_number_become_a_width_where_all_have_one():
  few = folders.PLAIN | dict(
    head_width=None, num_heads=4, attention_levels=(1,)
  )
  assert diffusers_release.unet(few, 2, 0, 8)['attention_head_dim'] == 4


@pytest.mark.parametrize(
  ('section', 'context', 'named'),
  [
    (folders.PLAIN | dict(head_width=None, num_heads=2), 0,
     r'num_heads=2 .* widths \[8, 16\]'),
    (folders.UNET | dict(resblock_updown=True), 6, 'resblock_updown=True'),
    (folders.UNET, 0, 'without a context'),
  ],
)  # fmt: skip
def test_unets_that_diffusers_lacks(section, context, named):
  with pytest.raises(UserError, match=named):
    diffusers_release.unet(section, 2, context, 8)


@pytest.mark.parametrize(
  'section', [folders.KL, folders.VQ, folders.KL | dict(mid_attention=False)]
)
def test_first_stages_come_back(section):
  written = diffusers_release.first_stage(section, 16, 0.5)
  back, scale = diffusers_config.first_stage(written, 'config')
  assert back == section and scale == 0.5


def test_a_kl_first_stage_with_two_widths_has_no_equal():
  with pytest.raises(UserError, match='embed_dim=3'):
    diffusers_release.first_stage(folders.KL | dict(embed_dim=3), 16, 1.0)


def test_text_encoders_come_back():
  bert = diffusers_config.bert(diffusers_release.bert(folders.TEXT), 'config')
  assert bert | dict(special_tokens=(2, 3, 0)) == folders.TEXT
  written = diffusers_release.clip_text(folders.CLIP)
  clip = diffusers_config.clip_text(written, 'config')
  assert clip | dict(special_tokens=(516, 517, 517)) == folders.CLIP


@pytest.mark.parametrize('kind', ['linear', 'sqrt_linear', 'cosine'])
@pytest.mark.parametrize('prediction', ['eps', 'v', 'x0'])
@pytest.mark.parametrize('spacing', ['leading', 'trailing', 'offset'])
def test_schedulers_come_back(kind, prediction, spacing):
  sampler = 'plms' if spacing == 'offset' else 'ddim'
  config = {
    'schedule': dict(kind=kind, num_timesteps=500, start=0.001, end=0.02),
    'loss': dict(prediction=prediction),
    'sampling': dict(sampler=sampler, spacing=spacing),
  }
  written = diffusers_release.scheduler(config)
  schedule, loss, sampling, notes = diffusers_config.scheduler(written, 'x')
  assert schedules.make(**schedule).alpha_bar.tolist() == (
    schedules.make(**config['schedule']).alpha_bar.tolist()
  )
  assert loss == config['loss'] and sampling == config['sampling']
  assert not notes


@pytest.mark.parametrize('spacing', ['', 'karras', 'log_snr'])
def test_solvers_without_a_scheduler_go_as_ddim(spacing):
  config = {
    'schedule': dict(zero_terminal_snr=True),
    'loss': dict(prediction='v'),
    'sampling': dict(sampler='dpmpp_2m', spacing=spacing),
  }
  written = diffusers_release.scheduler(config)
  schedule, _, sampling, notes = diffusers_config.scheduler(written, 'x')
  assert sampling == {'sampler': 'ddim', 'spacing': 'leading'} and not notes
  assert schedule['zero_terminal_snr'] is True


@pytest.mark.parametrize(
  'schedule',
  [
    dict(kind='sqrt', num_timesteps=9, start=0.01),
    dict(kind='cosine', num_timesteps=9, cosine_s=0.02),
  ],
)
def test_a_schedule_without_a_name_there_goes_as_its_betas(schedule):
  written = diffusers_release.scheduler({'schedule': schedule})
  beta = written['trained_betas']
  made = schedules.make(**schedule)
  np.testing.assert_allclose(np.cumprod(1 - np.array(beta)), made.alpha_bar)
  assert 'beta_schedule' not in written


def test_a_last_tanh_has_no_equal():
  with pytest.raises(UserError, match='tanh_out=True'):
    diffusers_release.first_stage(folders.KL | dict(tanh_out=True), 16, 0.5)
