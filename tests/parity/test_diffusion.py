"""Our solvers and losses against diffusers' schedulers and torch formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

from ldm_jax.diffusion import SOLVERS, sampling, schedule  # noqa: E402
from ldm_jax.diffusion.loss import LossSpec, loss_at  # noqa: E402
from tests.parity import oracles  # noqa: E402

pytestmark = pytest.mark.parity

SHAPE = (2, 4, 4, 3)
# The names of one curve: here, and there.
CURVES = {
  'linear': 'scaled_linear',
  'sqrt_linear': 'linear',
  'cosine': 'squaredcos_cap_v2',
}
BETAS = {'beta_start': 0.0015, 'beta_end': 0.0195}
OURS = schedule.make('linear', 1000, 0.0015, 0.0195)


@pytest.mark.parametrize('ours', CURVES)
def test_schedules(ours):
  theirs = diffusers.DDIMScheduler(beta_schedule=CURVES[ours], **BETAS)
  alpha_bar = schedule.make(ours, 1000, 0.0015, 0.0195).alpha_bar
  # Theirs is a product of 1000 float32 numbers.
  np.testing.assert_allclose(theirs.alphas_cumprod, alpha_bar, rtol=1e-4)


def network(z, t):
  """Any function of z_t and t; smooth, and the same in numpy and torch."""
  return 0.7 * z * np.cos(np.asarray(t) / 300.0) + 0.3 * z**2 / (1 + z**2)


def ours(solver, num_steps, spacing, eta=0.0, z=None, key=None):
  levels = sampling.levels(OURS, num_steps, spacing)
  steps = SOLVERS[solver](levels, eta)
  denoise = lambda z, t: (
    0.7 * z * jnp.cos(t.astype(jnp.float32) / 300.0)[:, None, None, None]
    + 0.3 * z**2 / (1 + z**2)
  )
  keys = sampling.image_keys(0, 0, SHAPE[0]) if key is None else key
  return sampling.sample(denoise, steps, jnp.asarray(z), keys), steps, keys


def noises(keys, rows):
  """What `sampling.sample` adds at row i, by the rule that it documents."""
  for i in range(rows):
    draw = lambda key, i=i: jax.random.normal(
      jax.random.fold_in(key, i), SHAPE[1:]
    )
    yield torch.from_numpy(np.array(jax.vmap(draw)(keys)))


def start():
  return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def scheduler(kind, spacing, **more):
  """A scheduler of theirs that visits what our spacing of that name does."""
  released = spacing in ('compvis', 'offset')
  return kind(
    beta_schedule='scaled_linear',
    timestep_spacing='leading' if released else spacing,
    steps_offset=1 if released else 0,
    set_alpha_to_one=not released,
    **BETAS,
    **more,
  )


@pytest.mark.parametrize('spacing', ['leading', 'trailing', 'compvis'])
@pytest.mark.parametrize('num_steps', [4, 50])
@pytest.mark.parametrize('eta', [0.0, 0.7, 1.0])
def test_ddim(spacing, num_steps, eta):
  theirs = scheduler(diffusers.DDIMScheduler, spacing, clip_sample=False)
  theirs.set_timesteps(num_steps)
  result, steps, keys = ours('ddim', num_steps, spacing, eta, start())
  assert theirs.timesteps.tolist() == steps.t.tolist()

  z = torch.from_numpy(start())
  for t, noise in zip(theirs.timesteps, noises(keys, num_steps), strict=True):
    eps = network(z, t)
    z = theirs.step(eps, t, z, eta=eta, variance_noise=noise).prev_sample
  assert oracles.error(result, z) <= 1e-4


@pytest.mark.parametrize('spacing', ['leading', 'compvis'])
@pytest.mark.parametrize('num_steps', [4, 50])
def test_plms(spacing, num_steps):
  theirs = scheduler(diffusers.PNDMScheduler, spacing, skip_prk_steps=True)
  theirs.set_timesteps(num_steps)
  result, steps, _ = ours('plms', num_steps, spacing, z=start())
  assert theirs.timesteps.tolist() == steps.t.tolist()

  z = torch.from_numpy(start())
  for t in theirs.timesteps:
    z = theirs.step(network(z, t), t, z).prev_sample
  assert oracles.error(result, z) <= 1e-4


@pytest.mark.parametrize('spacing', ['leading', 'offset'])
def test_where_the_steps_do_not_divide_the_timesteps(spacing):
  theirs = scheduler(diffusers.DDIMScheduler, spacing, clip_sample=False)
  theirs.set_timesteps(30)
  result, steps, _ = ours('ddim', 30, spacing, z=start())
  assert theirs.timesteps.tolist() == steps.t.tolist()
  z = torch.from_numpy(start())
  for t in theirs.timesteps:
    z = theirs.step(network(z, t), t, z).prev_sample
  assert oracles.error(result, z) <= 1e-4


@pytest.mark.parametrize('kind', ['l1', 'l2'])
@pytest.mark.parametrize('prediction', ['eps', 'v', 'x0'])
@pytest.mark.parametrize('weighted', [False, True])
def test_p_losses(kind, prediction, weighted):
  """The release's objective, from its formulas, with every term at work."""
  rng = np.random.default_rng(1)
  z, eps = rng.normal(size=(2, *SHAPE)).astype(np.float32)
  t = np.array([3, 870])
  logvar = rng.normal(size=1000).astype(np.float32)
  spec = LossSpec(prediction=prediction, kind=kind)
  if weighted:
    spec = LossSpec(
      prediction=prediction, kind=kind, simple_weight=0.7, elbo_weight=0.3
    )
  predict = lambda z, t: 0.5 * z + 0.1
  table = lambda t: jnp.asarray(logvar)[t]
  loss, _ = loss_at(
    spec, OURS, predict, z, jnp.asarray(t), eps, table if weighted else None
  )

  beta = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64)
  beta = beta**2
  alpha = 1 - beta
  a = torch.cumprod(alpha, 0)
  a_before = torch.cat([torch.ones(1), a[:-1]])
  z, eps = torch.from_numpy(z).double(), torch.from_numpy(eps).double()
  at = lambda levels: levels[t][:, None, None, None]
  z_t = at(a.sqrt()) * z + at((1 - a).sqrt()) * eps
  target = {
    'eps': eps,
    'x0': z,
    'v': at(a.sqrt()) * eps - at((1 - a).sqrt()) * z,
  }[prediction]
  error = target - predict(z_t, t)
  error = error.abs() if kind == 'l1' else error**2
  simple = error.mean(dim=(1, 2, 3))
  expected = simple
  if weighted:
    variance = beta * (1 - a_before) / (1 - a)
    vlb = {
      'eps': beta**2 / (2 * variance * alpha * (1 - a)),
      'x0': 0.5 * a.sqrt() / (2.0 * 1 - a),
      'v': torch.ones_like(a),
    }[prediction]
    level = torch.from_numpy(logvar[t]).double()
    expected = 0.7 * (simple / level.exp() + level) + 0.3 * vlb[t] * simple
  np.testing.assert_allclose(loss, expected, rtol=1e-4)
