"""Tests for ldm_jax.diffusion.settings."""

import jax
import numpy as np
import pytest

from ldm_jax.diffusion import OWN_SPACING, SOLVERS, sampling, schedule
from ldm_jax.diffusion.settings import Settings
from ldm_jax.types import UserError

SCHEDULE = schedule.make('linear', 100)


@pytest.mark.parametrize('sampler', SOLVERS)
def test_every_sampler_has_a_table_at_its_own_spacing(sampler):
  own = Settings(steps=7, sampler=sampler).table(SCHEDULE)
  spacing = OWN_SPACING.get(sampler, 'leading')
  told = SOLVERS[sampler](sampling.levels(SCHEDULE, 7, spacing))
  jax.tree.map(np.testing.assert_array_equal, own, told)
  other = Settings(steps=7, sampler=sampler, spacing='trailing')
  assert other.table(SCHEDULE).t.tolist() != own.t.tolist()


@pytest.mark.parametrize('sampler', ['ddpm', 'dpmpp_2m_sde', 'euler_ancestral'])
def test_stochastic_samplers_add_noise_without_being_asked(sampler):
  noise = Settings(steps=7, sampler=sampler).table(SCHEDULE).noise
  assert (noise[:-1] > 0).all() and noise[-1] == 0


def test_what_is_told_of_settings_is_what_they_do():
  told = Settings(sampler='unipc', guidance_rescale=0.5).about()
  assert told['spacing'] == 'log_snr' and told['guidance_rescale'] == 0.5
  assert set(told) == {
    'steps', 'sampler', 'spacing', 'eta', 'guidance', 'guidance_rescale',
  }  # fmt: skip


def test_what_is_off_has_no_place_in_the_program():
  assert Settings().guided() is None
  assert Settings(guidance_interval=(0, 9)).guided() is None
  assert Settings().thresholded(pixels=False) is None
  assert Settings(guidance=2.0).guided().interval is None


def test_numbers_are_leaves_and_their_values_no_structure():
  plans = [
    Settings(
      guidance=3.0, guidance_interval=interval, guidance_rescale=phi
    ).guided()
    for interval, phi in (((0, 500), 0.0), ((100.0, 700.0), 0.7))
  ]
  structures = [jax.tree.structure(p) for p in plans]
  assert structures[0] == structures[1]
  assert jax.tree.leaves(plans[1]) == pytest.approx([3.0, 0.7, 100.0, 700.0])


def test_a_plan_is_of_what_is_on():
  plan = Settings(7, guidance=2.0).plan(SCHEDULE, pixels=True)
  assert len(plan.table.t) == 7 and plan.threshold is None
  assert plan.guidance.scale == 2.0
  half = Settings(8).plan(SCHEDULE, pixels=True, strength=0.5)
  assert len(half.table.t) == 4 and half.guidance is None


def test_keywords_are_split_into_settings_and_the_rest():
  given = {'steps': 3, 'text': 'a', 'eta': 0.5}
  assert Settings.split(given) == (Settings(3, eta=0.5), {'text': 'a'})


def test_thresholds_of_pixels_and_of_latents():
  one = Settings(threshold=0.995)
  assert one.thresholded(pixels=True) == pytest.approx((0.995, 1.0))
  with pytest.raises(UserError, match='latents have no range of their own'):
    one.thresholded(pixels=False)
  ranged = Settings(threshold=0.9, threshold_range=3.0)
  assert ranged.thresholded(pixels=False) == pytest.approx((0.9, 3.0))


@pytest.mark.parametrize(
  ('settings', 'says'),
  [
    (dict(sampler='rk4'), "sampler='rk4' is unknown; allowed: ddim, ddpm"),
    (dict(guidance_interval=(5, 2)), r'guidance_interval=\(5, 2\) must be'),
    (dict(guidance_interval=(5,)), 'guidance_interval'),
    (dict(guidance_interval=(-1, 2)), 'guidance_interval'),
    (dict(guidance_rescale=1.5), 'guidance_rescale=1.5 is outside 0 to 1'),
    (dict(threshold=99.5), 'threshold=99.5 is outside 0 to 1'),
    (dict(threshold_range=-1.0), 'threshold_range=-1.0'),
  ],
)
def test_mistakes_are_named(settings, says):
  with pytest.raises(UserError, match=says):
    Settings(**settings)


@pytest.mark.parametrize(
  ('settings', 'says'),
  [
    (dict(spacing='even'), "spacing='even' is unknown; allowed: leading"),
    (dict(steps=101), 'steps=101 is outside 1 to 100'),
    (dict(sampler='heun', eta=0.5), "eta=0.5: sampler='heun' has none"),
    (dict(sampler='plms', spacing='karras'), 'evenly spaced'),
  ],
)
def test_mistakes_that_the_table_finds(settings, says):
  with pytest.raises(UserError, match=says):
    Settings(**settings).table(SCHEDULE)
