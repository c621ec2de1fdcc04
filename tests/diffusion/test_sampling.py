"""Tests for ldm_jax.diffusion.sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import SOLVERS, sampling, schedule
from ldm_jax.types import UserError
from tests.diffusion import oracles

SCHEDULE = schedule.make('linear', 100, 0.0015, 0.1)
CASES = [
  ('ddim', 'leading', 1, 0.0),
  ('ddim', 'leading', 7, 1.0),
  ('ddim', 'trailing', 7, 0.0),
  ('ddim', 'trailing', 100, 0.5),
  ('plms', 'leading', 7, 0.0),
  ('plms', 'trailing', 7, 0.0),
  ('heun', 'karras', 7, 0.0),
  ('dpmpp_2m', 'karras', 1, 0.0),
  ('dpmpp_2m_sde', 'log_snr', 7, 0.0),
  ('unipc', 'log_snr', 7, 0.0),
]
DETERMINISTIC = ('ddim', 'plms', 'dpmpp_2m', 'unipc', 'heun')


def draw(shape=(2, 4, 4, 3), seed=0):
  z_0 = jax.random.normal(jax.random.key(seed), shape)
  keys = sampling.image_keys(seed, 0, shape[0])
  return z_0, sampling.initial_noise(keys, shape[1:]), keys


@pytest.mark.parametrize(('solver', 'spacing', 'steps', 'eta'), CASES)
def test_a_perfect_denoiser_recovers_the_data(solver, spacing, steps, eta):
  z_0, z_T, keys = draw()
  table = SOLVERS[solver](sampling.levels(SCHEDULE, steps, spacing), eta)
  z = sampling.sample(oracles.one_point(SCHEDULE, z_0), table, z_T, keys)
  np.testing.assert_allclose(z, z_0, atol=1e-4)


@pytest.mark.parametrize('solver', DETERMINISTIC)
def test_the_scan_is_the_recurrence_in_float64(solver):
  """On a schedule of the paper's, where the signal goes down to 7%."""
  fine = schedule.make('linear', 1000, 0.0015, 0.0195)
  spacing = 'leading' if solver == 'plms' else 'karras'
  levels = sampling.levels(fine, 12, spacing)
  table = SOLVERS[solver](levels)
  _, z_T, keys = draw()
  level = dict(zip(levels.t, levels.alpha_bar))

  def eps_at(z, t):
    return oracles.MIXTURE.eps(z, np.sqrt(level[t]), np.sqrt(1 - level[t]))

  exact = oracles.follow(table, np.asarray(z_T, np.float64), eps_at)
  denoise = oracles.MIXTURE.denoiser(fine)
  z = jax.jit(sampling.sample, static_argnums=0)(denoise, table, z_T, keys)
  np.testing.assert_allclose(z, exact, atol=2e-4)


@pytest.mark.parametrize('solver', ['ddim', 'plms', 'unipc'])
def test_compvis_spacing_stops_one_step_short_of_the_data(solver):
  z_0, z_T, keys = draw()
  table = SOLVERS[solver](sampling.levels(SCHEDULE, 10, 'compvis'))
  denoise = oracles.one_point(SCHEDULE, z_0)
  z = sampling.sample(denoise, table, z_T, keys)
  # z_T was read as what it is at the first timestep visited.
  eps = denoise(z_T, jnp.array([91, 91]))
  expected = SCHEDULE.signal[0] * z_0 + SCHEDULE.noise[0] * eps
  np.testing.assert_allclose(z, expected, atol=1e-4)


@pytest.mark.parametrize('spacing', ['leading', 'trailing'])
def test_exactly_the_steps_that_were_asked_for(spacing):
  for steps in range(1, 101):
    levels = sampling.levels(SCHEDULE, steps, spacing)
    assert len(levels.t) == steps
    assert levels.t[0] >= 0 and (np.diff(levels.t) > 0).all()
    assert spacing == 'leading' or levels.t[-1] == 99
    alpha_bar = SCHEDULE.alpha_bar[levels.t]
    np.testing.assert_array_equal(levels.alpha_bar, alpha_bar)
    assert levels.alpha_bar_next[0] == 1
    np.testing.assert_array_equal(levels.alpha_bar_next[1:], alpha_bar[:-1])


def test_what_each_spacing_visits():
  visited = lambda steps, spacing: list(
    sampling.levels(SCHEDULE, steps, spacing).t
  )
  assert visited(4, 'leading') == [0, 25, 50, 75]
  assert visited(4, 'trailing') == [24, 49, 74, 99]
  assert visited(4, 'compvis') == [1, 26, 51, 76]
  assert visited(3, 'leading') == [0, 33, 66]
  assert visited(3, 'trailing') == [32, 66, 99]
  # The release's quirk: 40 steps of 100 // 40 = 2 are 50.
  assert len(visited(40, 'compvis')) == 50
  assert visited(40, 'offset') == visited(40, 'compvis')[:40]
  final = sampling.levels(SCHEDULE, 4, 'offset').alpha_bar_next[0]
  assert final == SCHEDULE.alpha_bar[0]


def test_spacings_of_the_noise_level():
  """Even in what they say, from the schedule's one end to the other."""
  for spacing, power in (
    ('karras', lambda s: s ** (1 / 7)),
    ('log_snr', np.log),
  ):
    levels = sampling.levels(SCHEDULE, 9, spacing)
    size = np.diff(power(np.sqrt(1 / levels.alpha_bar - 1)))
    np.testing.assert_allclose(size, size[0])
    np.testing.assert_allclose(levels.t[[0, -1]], [0, 99], atol=1e-9)
    # t is between timesteps, where lambda is linear.
    np.testing.assert_allclose(
      1 / (1 + np.exp(-2 * np.interp(levels.t, range(100),
                                     SCHEDULE.half_log_snr))),
      levels.alpha_bar,
    )  # fmt: skip
    one = sampling.levels(SCHEDULE, 1, spacing)
    np.testing.assert_allclose(one.t, 99)


def test_spacings_of_the_noise_level_begin_where_there_is_signal():
  cosine = schedule.make('cosine', 1000)
  assert cosine.alpha_bar[-1] < 1e-8
  for spacing in ('karras', 'log_snr'):
    levels = sampling.levels(cosine, 10, spacing)
    np.testing.assert_allclose(levels.alpha_bar[-1] ** 0.5, 6.1e-3, rtol=0.01)
    assert levels.t[-1] < 999


def test_where_the_release_crashes_we_say_so():
  with pytest.raises(UserError, match='steps=100 .* timestep 100'):
    sampling.levels(SCHEDULE, 100, 'compvis')


@pytest.mark.parametrize('steps', [0, -1, 101])
def test_too_many_steps_is_an_error_and_not_a_clamp(steps):
  with pytest.raises(UserError, match=f'steps={steps} is outside 1 to 100'):
    sampling.levels(SCHEDULE, steps)


def test_unknown_spacing():
  with pytest.raises(UserError, match="spacing='even'"):
    sampling.levels(SCHEDULE, 5, 'even')


@pytest.mark.parametrize('eta', [0.0, 1.0])
def test_an_image_is_the_same_whatever_the_batch(eta):
  table = SOLVERS['ddim'](sampling.levels(SCHEDULE, 5), eta)
  denoise = lambda z, t: jnp.tanh(z) * SCHEDULE.at(t)[1]

  @jax.jit
  def run(keys):
    z_T = sampling.initial_noise(keys, (4, 4, 3))
    return sampling.sample(denoise, table, z_T, keys)

  together = run(sampling.image_keys(3, 0, 6))
  apart = [run(sampling.image_keys(3, first, 2)) for first in (0, 2, 4)]
  np.testing.assert_array_equal(together, np.concatenate(apart))
  assert len(np.unique(together[:, 0, 0, 0])) == 6


def test_noise_is_standard_normal_and_new_at_every_step():
  keys = sampling.image_keys(0, 0, 64)
  z_T = sampling.initial_noise(keys, (8, 8, 3))
  # A table that forgets everything but the noise of its second step.
  table = sampling.tabulate(np.zeros(2), np.zeros((2, 1, 2)), np.array([0, 1]))
  added = sampling.sample(lambda z, t: z, table, z_T, keys)
  for noise in (z_T, added):
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
  assert abs(np.corrcoef(np.ravel(added), np.ravel(z_T))[0, 1]) < 0.03


def test_the_table_is_an_argument_and_not_a_constant():
  """Another eta or spacing of as many steps compiles nothing."""
  compiled = 0
  z_0, z_T, keys = draw()

  @jax.jit
  def run(table):
    nonlocal compiled
    compiled += 1
    return sampling.sample(oracles.one_point(SCHEDULE, z_0), table, z_T, keys)

  for eta, spacing in [(0.0, 'leading'), (1.0, 'leading'), (0.3, 'trailing')]:
    run(SOLVERS['ddim'](sampling.levels(SCHEDULE, 6, spacing), eta))
  assert compiled == 1
