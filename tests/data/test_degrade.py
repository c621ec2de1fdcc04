"""Degradations: stated ranges, any order, and the same for the same seed."""

import collections

import numpy as np
import pytest

from ldm_jax.data import degrade, scenes
from ldm_jax.data import degrade_steps as steps
from ldm_jax.types import UserError

IMAGE = scenes.Scenes(size=64, max_objects=3)[5]['image']


def plans(spec, count=1500, factor=4, size=(64, 64)):
  rng = np.random.default_rng(0)
  return [degrade.plan(rng, spec, factor, size) for _ in range(count)]


def of_kind(kind, found):
  return [[step for step in plan if type(step) is kind] for plan in found]


@pytest.mark.parametrize('name', degrade.DEGRADATIONS)
def test_images_become_four_times_smaller_and_depend_on_the_seed_alone(name):
  one, again, other = (
    degrade.degrade(np.random.default_rng(seed), IMAGE, 4, name)
    for seed in (1, 1, 2)
  )
  assert one.shape == (16, 16, 3) and one.dtype == np.uint8
  np.testing.assert_array_equal(one, again)
  assert (one != other).any() == (name != 'bicubic')


def test_light_is_nearer_to_bicubic_than_full():
  small = degrade.bicubic(IMAGE, 4).astype(float)
  error = lambda name: np.mean(
    [
      np.abs(
        degrade.degrade(np.random.default_rng(i), IMAGE, 4, name) - small
      ).mean()
      for i in range(30)
    ]
  )
  # Light kernels of even sides move the image by half a pixel.
  assert 0 < error('bsr_light') < 0.8 * error('bsr')


def test_bicubic_does_not_alias():
  # Stripes of one pixel become grey; without antialiasing, black or white.
  stripes = np.zeros((64, 64, 3), np.uint8)
  stripes[:, ::2] = 255
  inner = degrade.bicubic(stripes, 4)[:, 2:-2]
  assert np.abs(inner.astype(int) - 127).max() <= 3


@pytest.mark.parametrize('spec', [degrade.LIGHT, degrade.FULL])
def test_quality_and_noise_fill_the_stated_ranges(spec):
  found = plans(spec)
  qualities = [s.quality for plan in of_kind(steps.Jpeg, found) for s in plan]
  assert (min(qualities), max(qualities)) == spec.jpeg
  assert np.mean(qualities) == pytest.approx(np.mean(spec.jpeg), abs=1)
  for kind in (steps.GaussianNoise, steps.SpeckleNoise):
    levels = [
      255 * np.sqrt(np.linalg.eigvalsh(s.covariance)[-1])
      for plan in of_kind(kind, found)
      for s in plan
      if np.ptp(np.linalg.eigvalsh(s.covariance)) < 1e-12  # Independent.
    ]
    assert min(levels) == pytest.approx(spec.noise[0])
    assert max(levels) == pytest.approx(spec.noise[1])


@pytest.mark.parametrize('spec', [degrade.LIGHT, degrade.FULL])
def test_blurs_fill_the_stated_ranges(spec):
  found = plans(spec)
  per_plan = of_kind(steps.Blur, found)
  assert all(len(plan) == spec.blurs for plan in per_plan)
  blurs = [blur for plan in per_plan for blur in plan]
  sides = {True: set(), False: set()}
  for blur in blurs:
    sides[blur.sigmas[0] == blur.sigmas[1]].add(blur.side)
  # As in the release, whose randint reaches both ends.
  if spec is degrade.FULL:
    assert sides[True] == sides[False] == set(range(7, 26, 2))
  else:
    assert sides == {True: {5, 6, 7}, False: set(range(5, 15))}
  isotropic = [b.sigmas[0] for b in blurs if b.sigmas[0] == b.sigmas[1]]
  assert len(isotropic) / len(blurs) == pytest.approx(0.5, abs=0.05)
  # Factor 4: (2 + 0.8) times the share at most.
  assert 2.6 < max(isotropic) / spec.blur_share <= 2.8
  variances = [b.sigmas[0] ** 2 for b in blurs if b.sigmas[0] != b.sigmas[1]]
  assert 7.5 < max(variances) / spec.blur_share <= 8.0


def test_light_blurs_and_strides_less_often():
  found = of_kind(steps.BlurAndStride, plans(degrade.LIGHT, 3000))
  assert np.mean([bool(p) for p in found]) == pytest.approx(0.2, abs=0.02)


def test_shares_of_the_kinds():
  found = plans(degrade.FULL)
  share = lambda kind: np.mean([bool(p) for p in of_kind(kind, found)])
  assert share(steps.Sensor) == pytest.approx(0.25, abs=0.04)
  assert share(steps.SpeckleNoise) == pytest.approx(0.25, abs=0.04)
  assert share(steps.BlurAndStride) == pytest.approx(0.25, abs=0.04)
  assert all(isinstance(plan[-1], steps.Jpeg) for plan in found)
  twice = np.mean([len(p) == 2 for p in of_kind(steps.Jpeg, found)])
  assert twice == pytest.approx(0.9, abs=0.03)
  kinds = collections.Counter(
    s.kind for plan in of_kind(steps.Resize, found) for s in plan
  )
  assert min(kinds.values()) / kinds.total() == pytest.approx(1 / 3, abs=0.03)
  noises = of_kind(steps.GaussianNoise, found)
  ranks = [np.linalg.matrix_rank(p[0].covariance, 1e-9) for p in noises]
  assert np.mean(np.array(ranks) == 1) == pytest.approx(0.4, abs=0.04)


def test_the_order_is_random_but_for_the_last_size():
  firsts = collections.Counter()
  for plan in plans(degrade.FULL):
    resized = [
      i for i, step in enumerate(plan)
      if isinstance(step, (steps.Resize, steps.BlurAndStride))
    ]  # fmt: skip
    assert isinstance(plan[resized[-1]], steps.Resize)
    assert plan[resized[-1]].size == (16, 16)
    firsts[type(plan[0]).__name__] += 1
  assert {'Blur', 'GaussianNoise', 'Jpeg', 'Resize'} <= set(firsts)


@pytest.mark.parametrize('factor', [2, 4, 8])
def test_other_factors(factor):
  found = degrade.degrade(np.random.default_rng(0), IMAGE, factor, 'bsr')
  assert found.shape == (64 // factor, 64 // factor, 3)


def test_sizes_that_do_not_divide_are_refused():
  with pytest.raises(UserError, match='63x64'):
    degrade.degrade(np.random.default_rng(0), IMAGE[:63], 4, 'bicubic')
  with pytest.raises(UserError, match="'bsrgan'.*bsr_light"):
    degrade.check('bsrgan')
