"""Tests for ldm_jax.training.first_stage_step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.first_stage import losses
from ldm_jax.first_stage.autoencoder import (
  AutoencoderKL,
  AutoencoderVQ,
  Identity,
)
from ldm_jax.first_stage.losses import LossSpec
from ldm_jax.training import first_stage_step
from ldm_jax.types import UserError

_SHAPE = {
  'z_channels': 4,
  'embed_dim': 4,
  'channels': 16,
  'multipliers': (1, 2),
  'num_res_blocks': 1,
  'mid_attention': False,
  'norm_groups': 4,
}
KL = AutoencoderKL(**_SHAPE)
VQ = AutoencoderVQ(**_SHAPE, num_codes=32)
ALONE = LossSpec(perceptual_weight=0.0, disc_weight=0.0, learn_logvar=True)
# Rest at step 0, the discriminator alone at 1, both from 2 on.
GAME = LossSpec(
  perceptual_weight=0.0,
  disc_start=2,
  disc_warmup=1,
  disc_layers=1,
  disc_channels=8,
)
B1 = 0.5
TX = optax.adam(3e-3, B1, 0.9)
RNG = jax.random.key(7)


def images(seed, batch=8, side=16):
  """Smooth coloured waves: [B H W 3] in [-1, 1]."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:side, :side][..., None] / side
  a, b, c = rng.uniform(0, 6, (3, batch, 1, 1, 3))
  return {'image': np.sin(a * y + b * x + c).astype(np.float32)}


@functools.cache
def compiled(model, spec, grad_accum=1):
  step = first_stage_step.make_train_step(model, spec, TX, TX, grad_accum)
  return jax.jit(step)


@functools.cache
def fresh(model, spec):
  init = functools.partial(first_stage_step.init_state, model, spec, TX, TX)
  return jax.jit(init, static_argnums=1)(jax.random.key(0), (16, 16, 3))


def moved(before, after):
  return not jax.tree.all(jax.tree.map(np.array_equal, before, after))


def gradient(state):
  """What a first step of Adam was given."""
  return jax.tree.map(lambda mu: mu / (1 - B1), state.opt_state[0].mu)


@pytest.mark.parametrize('model', [KL, VQ], ids=['kl', 'vq'])
def test_a_few_dozen_steps_reconstruct_better(model):
  spec = ALONE if model is KL else GAME
  state, step = fresh(model, spec), compiled(model, spec)
  seen = []
  for i in range(60):
    state, metrics = step(state, {}, images(i), RNG)
    seen.append(jax.device_get(metrics))
  assert all(np.isfinite(list(m.values())).all() for m in seen)
  early, late = (
    {name: np.mean([m[name] for m in part]) for name in ('pixel', 'psnr')}
    for part in (seen[:5], seen[-5:])
  )
  assert late['pixel'] < 0.7 * early['pixel']
  assert late['psnr'] > early['psnr'] + 2
  assert state.step == 60


def test_accumulated_gradients_are_those_of_the_whole_batch():
  """KL, so that posterior noise is compared too; no batch normalisation."""
  state, batch = fresh(KL, ALONE), images(0)
  whole, metrics = compiled(KL, ALONE)(state, {}, batch, RNG)
  parts, part_metrics = compiled(KL, ALONE, 4)(state, {}, batch, RNG)
  assert metrics.keys() == part_metrics.keys()
  for name in metrics:
    np.testing.assert_allclose(
      metrics[name], part_metrics[name], rtol=1e-4, err_msg=name
    )
  norm = float(metrics['grad_norm'])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * norm),
    gradient(whole),
    gradient(parts),
  )


def test_log_variance_is_learned_only_on_request():
  state = fresh(KL, ALONE)
  after, metrics = compiled(KL, ALONE)(state, {}, images(0), RNG)
  # Errors are below exp(0) = 1, so the log-variance falls.
  assert metrics['pixel'] < 1 and after.logvar < state.logvar
  state = fresh(VQ, GAME)
  after, _ = compiled(VQ, GAME)(state, {}, images(0), RNG)
  assert after.logvar == state.logvar


def test_without_a_discriminator_nothing_of_it_exists():
  state = fresh(KL, ALONE)
  assert not jax.tree.leaves(
    (state.disc_params, state.disc_stats, state.disc_opt_state)
  )
  _, metrics = compiled(KL, ALONE)(state, {}, images(0), RNG)
  assert not [name for name in metrics if 'disc' in name or 'logits' in name]


def test_the_discriminator_rests_then_learns_then_plays():
  step, start = compiled(VQ, GAME), fresh(VQ, GAME)
  rested, metrics = step(start, {}, images(0), RNG)
  assert not moved(start.disc_params, rested.disc_params)
  assert not moved(start.disc_stats, rested.disc_stats)
  assert moved(start.params, rested.params)
  for name in ('disc_loss', 'gen_loss', 'd_weight', 'logits_real'):
    assert metrics[name] == 0
  terms = metrics['rec'] + GAME.codebook_weight * metrics['codebook_loss']
  np.testing.assert_allclose(metrics['loss'], terms, rtol=1e-6)

  learned, metrics = step(rested, {}, images(1), RNG)
  assert moved(rested.disc_params, learned.disc_params)
  assert moved(rested.disc_stats, learned.disc_stats)
  assert moved(rested.params, learned.params)
  assert metrics['disc_loss'] > 0 and metrics['d_weight'] == 0

  played, metrics = step(learned, {}, images(2), RNG)
  assert moved(learned.disc_params, played.disc_params)
  assert moved(learned.params, played.params)
  assert metrics['disc_loss'] > 0 and metrics['d_weight'] > 0


def test_before_its_time_the_discriminator_is_not_even_run():
  """A network of NaNs that changes nothing was not evaluated."""
  state, batch = fresh(VQ, GAME), images(0)
  nans = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.disc_params)
  step = compiled(VQ, GAME)
  expected, _ = step(state, {}, batch, RNG)
  after, metrics = step(state.replace(disc_params=nans), {}, batch, RNG)
  assert not moved(expected.params, after.params)
  assert np.isfinite(list(jax.device_get(metrics).values())).all()


def test_one_backward_pass_gives_the_gradient_of_the_whole_objective():
  """Against two plain ones, and the adaptive weight against its formula."""
  state = fresh(VQ, GAME).replace(step=jnp.int32(2))
  batch = images(3)
  image = batch['image']
  discriminator = first_stage_step.make_discriminator(GAME, jnp.float32)

  def terms(params):
    recon, aux = VQ.apply({'params': params}, image)
    nll = jnp.mean(jnp.abs(image - recon))
    regular = losses.codebook_loss(aux['z'], aux['quantized'])
    fake, _ = discriminator.apply(
      {'params': state.disc_params, 'batch_stats': state.disc_stats},
      recon,
      mutable=['batch_stats'],
    )
    return nll, regular, -jnp.mean(fake)

  jacobian = jax.jit(jax.jacrev(terms))(state.params)
  at_kernel = [t['decoder']['conv_out']['kernel'] for t in jacobian]
  weight = GAME.disc_weight * (
    np.linalg.norm(at_kernel[0]) / (np.linalg.norm(at_kernel[2]) + 1e-4)
  )
  after, metrics = compiled(VQ, GAME)(state, {}, batch, RNG)
  np.testing.assert_allclose(metrics['d_weight'], weight, rtol=1e-4)
  nll, regular, adversarial = jacobian
  jax.tree.map(
    lambda a, b, c, got: np.testing.assert_allclose(
      got, a + b + weight * c, rtol=1e-3, atol=1e-5
    ),
    nll,
    regular,
    adversarial,
    gradient(after)['model'],
  )


def test_the_step_is_a_function_of_its_arguments():
  state, batch, step = fresh(KL, ALONE), images(0), compiled(KL, ALONE)
  first, again = (step(state, {}, batch, RNG) for _ in range(2))
  assert not moved(first, again)
  # The noise follows the step number.
  later, _ = step(state.replace(step=jnp.int32(1)), {}, batch, RNG)
  assert moved(first[0].params, later.params)


def test_what_cannot_be_trained_is_said():
  with pytest.raises(UserError, match='Identity has nothing to train'):
    first_stage_step.make_train_step(Identity(), ALONE, TX, TX)
  assert first_stage_step.init_frozen(ALONE) == {}
  with pytest.raises(UserError, match='lpips_path is not set'):
    first_stage_step.init_frozen(LossSpec())
