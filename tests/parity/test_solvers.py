"""Our solvers against diffusers' schedulers, on a network that is a formula."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

from ldm_jax.diffusion import SOLVERS, sampling, schedule  # noqa: E402
from ldm_jax.diffusion.prediction import as_denoiser  # noqa: E402
from ldm_jax.diffusion.thresholding import dynamic_threshold  # noqa: E402
from tests.parity import oracles  # noqa: E402

pytestmark = pytest.mark.parity

SHAPE = (2, 4, 4, 3)
BETAS = {
  'beta_schedule': 'scaled_linear',
  'beta_start': 0.0015,
  'beta_end': 0.0195,
}
OURS = schedule.make('linear', 1000, 0.0015, 0.0195)
KEYS = sampling.image_keys(0, 0, SHAPE[0])
PREDICTIONS = {'eps': 'epsilon', 'v': 'v_prediction', 'x0': 'sample'}

DPM = (diffusers.DPMSolverMultistepScheduler, {'solver_order': 2})
SDE = (DPM[0], {'solver_order': 2, 'algorithm_type': 'sde-dpmsolver++'})
UNIPC = (diffusers.UniPCMultistepScheduler, {'solver_order': 2})
EULER = (diffusers.EulerDiscreteScheduler, {})
ANCESTRAL = (diffusers.EulerAncestralDiscreteScheduler, {})
HEUN = (diffusers.HeunDiscreteScheduler, {})
DDPM = (diffusers.DDPMScheduler, {'clip_sample': False})
THEIRS = {
  'dpmpp_2m': DPM,
  'dpmpp_2m_sde': SDE,
  'unipc': UNIPC,
  'euler': EULER,
  'euler_ancestral': ANCESTRAL,
  'heun': HEUN,
  'ddpm': DDPM,
}


def network(z, t):
  """Any function of z_t and t: smooth, the same in numpy, torch and jax."""
  t = t / 300.0
  wave = jnp.cos(t)[:, None, None, None] if np.ndim(t) else np.cos(float(t))
  return 0.7 * z * wave + 0.3 * z**2 / (1 + z**2)


def scheduler(sampler, num_steps, **more):
  kind, settings = THEIRS[sampler]
  made = kind(**BETAS, **settings, **more)
  made.set_timesteps(num_steps)
  return made


def begin():
  return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def noise_at(row):
  """What `sampling.sample` adds at a row, by the rule that it documents."""
  draw = lambda key: jax.random.normal(jax.random.fold_in(key, row), SHAPE[1:])
  return torch.from_numpy(np.array(jax.vmap(draw)(KEYS)))


def theirs(made, monkeypatch):
  """Their loop, with our noise wherever they draw some."""
  drawn = [noise_at(i) for i in range(len(made.timesteps))]
  module = importlib.import_module(type(made).__module__)
  if hasattr(module, 'randn_tensor'):
    # Schedulers that draw none at their last step do not ask for it.
    monkeypatch.setattr(module, 'randn_tensor', lambda *a, **k: drawn.pop(0))
  x = torch.from_numpy(begin())
  if made.init_noise_sigma != 1:  # Theirs is z / alpha.
    x = x * (made.sigmas[0] ** 2 + 1) ** 0.5
  for t in made.timesteps:
    out = network(made.scale_model_input(x, t), t)
    x = made.step(out, t, x, return_dict=False)[0]
  return x


def ours(sampler, levels, prediction='eps', curve=OURS, threshold=None):
  denoise = as_denoiser(network, prediction, curve)
  if threshold:
    denoise = dynamic_threshold(denoise, curve, *threshold)
  steps = SOLVERS[sampler](levels)
  return sampling.sample(denoise, steps, jnp.asarray(begin()), KEYS)


def their_levels(made):
  """The levels that a scheduler of theirs visits."""
  alpha_bar = 1 / (1 + made.sigmas.numpy().astype(np.float64)[::-1] ** 2)
  t = made.timesteps.numpy()[::-1]
  return sampling.Levels(
    t=t, alpha_bar=alpha_bar[1:], alpha_bar_next=alpha_bar[:-1]
  )


@pytest.mark.parametrize('prediction', PREDICTIONS)
@pytest.mark.parametrize('sampler', THEIRS)
@pytest.mark.parametrize('num_steps', [3, 20])
def test_solvers(sampler, prediction, num_steps, monkeypatch):
  if (sampler, prediction) == ('euler_ancestral', 'x0'):
    pytest.skip('diffusers has none')
  made = scheduler(
    sampler,
    num_steps,
    timestep_spacing='trailing',
    prediction_type=PREDICTIONS[prediction],
  )
  levels = sampling.levels(OURS, num_steps, 'trailing')
  assert sorted(set(made.timesteps.tolist())) == levels.t.tolist()
  result = ours(sampler, levels, prediction)
  assert oracles.error(result, theirs(made, monkeypatch)) <= 1e-4


@pytest.mark.parametrize('sampler', ['euler', 'heun'])
def test_karras_spacing_visits_the_same_fractional_timesteps(
  sampler, monkeypatch
):
  made = scheduler(
    sampler, 12, timestep_spacing='linspace', use_karras_sigmas=True
  )
  levels = sampling.levels(OURS, 12, 'karras')
  visited = np.sort(np.unique(made.timesteps.numpy()))
  np.testing.assert_allclose(visited, levels.t, atol=0.01)
  result = ours(sampler, levels)
  assert oracles.error(result, theirs(made, monkeypatch)) <= 1e-4


@pytest.mark.parametrize('sampler', ['dpmpp_2m', 'dpmpp_2m_sde', 'unipc'])
@pytest.mark.parametrize('num_steps', [3, 20])
def test_karras_levels_of_multistep_solvers(sampler, num_steps, monkeypatch):
  """Theirs rounds the timesteps, but for a cosine; so do we, for once."""
  made = scheduler(sampler, num_steps, use_karras_sigmas=True)
  levels = sampling.levels(OURS, num_steps, 'karras')
  rounded = their_levels(made)
  np.testing.assert_allclose(levels.alpha_bar, rounded.alpha_bar, rtol=1e-4)
  np.testing.assert_allclose(levels.t, rounded.t, atol=0.5)
  result = ours(sampler, levels.replace(t=np.round(levels.t)))
  assert oracles.error(result, theirs(made, monkeypatch)) <= 1e-4


@pytest.mark.parametrize('sampler', ['euler', 'dpmpp_2m', 'unipc'])
def test_zero_terminal_snr(sampler, monkeypatch):
  """With v-prediction, from the timestep at which there is no signal."""
  curve = schedule.make('linear', zero_terminal_snr=True)
  made = scheduler(
    sampler,
    10,
    timestep_spacing='trailing',
    prediction_type='v_prediction',
    rescale_betas_zero_snr=True,
  )
  np.testing.assert_allclose(
    made.alphas_cumprod, curve.alpha_bar, rtol=2e-3, atol=1e-7
  )
  # Their float32 product has lost a thousandth of the last levels, which is
  # theirs to keep: the same levels on both sides.
  levels = their_levels(made)
  curve = curve.replace(alpha_bar=np.asarray(made.alphas_cumprod, np.float64))
  result = ours(sampler, levels, 'v', curve)
  expected = theirs(made, monkeypatch)
  # Signal of 2^-12, of which float32 leaves three digits.
  assert oracles.error(result, expected) <= 1e-4


def test_ddim_from_a_timestep_without_signal():
  """DDIM's scheduler has exactly no signal there, and we 2^-12 of it."""
  made = diffusers.DDIMScheduler(
    **BETAS,
    clip_sample=False,
    timestep_spacing='trailing',
    prediction_type='v_prediction',
    rescale_betas_zero_snr=True,
  )
  made.set_timesteps(10)
  curve = schedule.make('linear', zero_terminal_snr=True)
  x = torch.from_numpy(begin())
  for t in made.timesteps:
    x = made.step(network(x, t), t, x).prev_sample
  levels = sampling.levels(curve, 10, 'trailing')
  assert oracles.error(ours('ddim', levels, 'v', curve), x) <= 2e-3


@pytest.mark.parametrize('share', [0.9, 0.995])
def test_dynamic_thresholding(share, monkeypatch):
  made = scheduler(
    'dpmpp_2m',
    10,
    timestep_spacing='trailing',
    thresholding=True,
    dynamic_thresholding_ratio=share,
    sample_max_value=1e6,
  )
  levels = sampling.levels(OURS, 10, 'trailing')
  result = ours('dpmpp_2m', levels, threshold=(share, 1.0))
  assert np.abs(result).max() <= 1 + 1e-5
  free = ours('dpmpp_2m', levels)
  assert np.abs(free - result).max() > 0.1
  assert oracles.error(result, theirs(made, monkeypatch)) <= 1e-4
