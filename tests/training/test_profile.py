"""Tests for ldm_jax.training.profile."""

import jax.numpy as jnp
import pytest

from ldm_jax.training import profile
from ldm_jax.types import UserError


def steps(workdir, spec, count):
  profiler = profile.Profiler(workdir, spec)
  for i in range(count):
    profiler.after_step(jnp.float32(i) + 1)
  profiler.close()
  return list((workdir / 'profile').rglob('*.xplane.pb'))


def test_chosen_steps_are_profiled_and_others_are_not(tmp_path):
  assert steps(tmp_path / 'a', profile.ProfileSpec(start=2, steps=2), 6)
  assert not steps(tmp_path / 'b', profile.ProfileSpec(), 20)


def test_a_run_that_ends_within_the_profile_closes_it(tmp_path):
  assert steps(tmp_path, profile.ProfileSpec(start=1, steps=100), 3)


def test_no_step_before_the_first_can_be_profiled():
  with pytest.raises(UserError, match='profile.start=0'):
    profile.ProfileSpec(start=0)
