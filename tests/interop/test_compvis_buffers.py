"""The schedule's buffers."""

import ml_dtypes
import numpy as np
import pytest

from ldm_jax.interop import compvis_buffers
from ldm_jax.types import UserError

LINEAR = {
  'kind': 'linear', 'num_timesteps': 1000, 'start': 0.0015, 'end': 0.0195,
}  # fmt: skip


def test_they_satisfy_their_definitions():
  b = {
    k: v.astype(np.float64) for k, v in compvis_buffers.buffers(LINEAR).items()
  }
  beta = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
  a = np.cumprod(1 - beta)
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6)
  close(b['betas'], beta)
  close(b['alphas_cumprod'], a)
  assert b['alphas_cumprod_prev'][0] == 1
  close(b['alphas_cumprod_prev'][1:], a[:-1])
  close(b['sqrt_alphas_cumprod'] ** 2, a)
  close(b['sqrt_one_minus_alphas_cumprod'] ** 2, 1 - a)
  close(np.exp(b['log_one_minus_alphas_cumprod']), 1 - a)
  close(b['sqrt_recip_alphas_cumprod'], a**-0.5)
  close(b['sqrt_recipm1_alphas_cumprod'], (1 / a - 1) ** 0.5)
  assert b['posterior_variance'][0] == 0
  log = b['posterior_log_variance_clipped']
  close(log[0], np.log(1e-20))
  close(np.exp(log[1:]), b['posterior_variance'][1:])
  # The posterior's mean of a noiseless z_t is z_0's share of it.
  z_t = a**0.5
  mean = b['posterior_mean_coef1'] + b['posterior_mean_coef2'] * z_t
  close(mean, b['alphas_cumprod_prev'] ** 0.5)


@pytest.mark.parametrize(
  'section',
  [
    LINEAR,
    {**LINEAR, 'start': 0.00085, 'end': 0.012},
    {**LINEAR, 'kind': 'sqrt_linear', 'num_timesteps': 500},
    {**LINEAR, 'kind': 'sqrt', 'start': 1e-6, 'end': 1e-3},
    {**LINEAR, 'kind': 'cosine'},
  ],
)
def test_a_schedule_is_known_by_its_buffers(section):
  tensors = compvis_buffers.buffers(section)
  notes = []
  found = compvis_buffers.find_schedule(
    {**LINEAR, 'end': 0.03}, tensors, 'x.ckpt', notes
  )
  assert len(notes) == 1
  again = compvis_buffers.buffers(found)
  for name, x in tensors.items():
    np.testing.assert_allclose(again[name], x, rtol=1e-4, err_msg=name)


def test_a_schedule_without_a_last_signal_is_known_by_its_buffers():
  zero, notes = {**LINEAR, 'zero_terminal_snr': True}, []
  tensors = compvis_buffers.buffers(zero)
  assert compvis_buffers.find_schedule(LINEAR, tensors, '', notes) == zero
  assert 'zero_terminal_snr' in notes[0]
  exact = {'alphas_cumprod': np.append(tensors['alphas_cumprod'][:-1], 0)}
  assert compvis_buffers.find_schedule(LINEAR, exact, '', notes) == zero


def test_a_config_that_agrees_is_left_as_it_is():
  notes = []
  tensors = compvis_buffers.buffers(LINEAR)
  halves = {k: v.astype(np.float16) for k, v in tensors.items()}
  for given in (tensors, halves, {}):
    assert compvis_buffers.find_schedule(LINEAR, given, '', notes) == LINEAR
  assert not notes


@pytest.mark.parametrize(
  'alpha_bar',
  [
    np.linspace(0.9, 0.1, 1000),
    np.full(1000, np.nan),
    np.zeros(1000),
    np.ones((10, 100)),
    np.ones(1),
  ],
)
def test_another_curve_is_refused(alpha_bar):
  tensors = {'alphas_cumprod': np.float32(alpha_bar)}
  with pytest.raises(UserError, match='x.ckpt: alphas_cumprod'):
    compvis_buffers.find_schedule(LINEAR, tensors, 'x.ckpt', [])


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_a_schedule_is_known_by_its_halved_buffers(dtype):
  tensors = {
    k: v.astype(dtype) for k, v in compvis_buffers.buffers(LINEAR).items()
  }
  notes = []
  found = compvis_buffers.find_schedule(LINEAR, tensors, 'x.ckpt', notes)
  assert found == LINEAR and not notes
