"""One optimisation step of a first stage: autoencoder and discriminator.

Both turns of the game happen on the same batch, and both see the parameters
of the step's start, so one forward pass of each network serves both. (The
release runs the autoencoder again for the discriminator's turn, after its
update and with fresh posterior noise.)
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ldm_jax.first_stage import losses, lpips, quantize
from ldm_jax.first_stage.autoencoder import AutoencoderKL, AutoencoderVQ
from ldm_jax.first_stage.discriminator import Discriminator
from ldm_jax.first_stage.losses import LossSpec
from ldm_jax.training import optim
from ldm_jax.training.accumulate import dealt, scan_mean
from ldm_jax.training.guard import take as take_always
from ldm_jax.types import Array, Batch, Params, UserError

Metrics = dict[str, Array]


@flax.struct.dataclass
class FirstStageState:
  """Everything a resumed run needs, and only arrays.

  Without a discriminator the fields named after it are empty.
  """

  step: Array  # int32 scalar
  params: Params  # The autoencoder's.
  logvar: Array  # float32 scalar, of the KL model's reconstruction term.
  opt_state: optax.OptState
  disc_params: Params
  disc_stats: Params  # Running statistics of its batch normalisation.
  disc_opt_state: optax.OptState
  # What the guard remembers; empty unless guard.spike_limit is set.
  watch: Params = flax.struct.field(default_factory=dict)


def make_discriminator(spec: LossSpec, dtype: Any) -> Discriminator | None:
  """The discriminator that spec asks for; None where its weight is 0."""
  if spec.disc_weight == 0:
    return None
  return Discriminator(spec.disc_channels, spec.disc_layers, dtype)


def init_state(
  model: AutoencoderKL | AutoencoderVQ,
  spec: LossSpec,
  tx: optax.GradientTransformation,
  disc_tx: optax.GradientTransformation,
  rng: Array,
  image_shape: tuple[int, int, int],
) -> FirstStageState:
  """A fresh state for images [H W C]; shapes alone under jax.eval_shape."""
  model_rng, disc_rng = jax.random.split(rng)
  image = jnp.zeros((1, *image_shape))
  params = model.init(model_rng, image)['params']
  logvar = jnp.float32(spec.logvar_init)
  discriminator = make_discriminator(spec, model.dtype)
  disc_params, disc_stats, disc_opt_state = {}, {}, ()
  if discriminator is not None:
    variables = discriminator.init(disc_rng, image)
    disc_params = variables['params']
    disc_stats = variables['batch_stats']
    disc_opt_state = disc_tx.init(disc_params)
  return FirstStageState(
    step=jnp.int32(0),
    params=params,
    logvar=logvar,
    opt_state=tx.init(_trained(spec, params, logvar)),
    disc_params=disc_params,
    disc_stats=disc_stats,
    disc_opt_state=disc_opt_state,
  )


def init_frozen(spec: LossSpec, read_torch=None) -> dict[str, Params]:
  """What train_step takes as `frozen`: LPIPS, where spec weighs it."""
  if spec.perceptual_weight == 0:
    return {}
  return {'lpips': lpips.load(spec.lpips_path, read_torch)}


def _trained(spec: LossSpec, params: Params, logvar: Array) -> Params:
  """What the autoencoder's optimizer moves."""
  trained = {'model': params}
  return {**trained, 'logvar': logvar} if spec.learn_logvar else trained


def make_train_step(
  model: AutoencoderKL | AutoencoderVQ,
  spec: LossSpec,
  tx: optax.GradientTransformation,
  disc_tx: optax.GradientTransformation,
  grad_accum: int = 1,
  gather: Callable[[Params], Params] = lambda params: params,
) -> Callable[..., tuple[FirstStageState, Metrics]]:
  """Returns train_step(state, frozen, batch, rng) -> (state, metrics).

  Pure and not jitted. With grad_accum > 1 the batch is walked in that many
  parts, and the gradients are those of the whole batch; only what is a
  property of one forward pass stays per part, as in the release: the
  discriminator's batch normalisation and the adaptive weight. `gather` makes
  sharded parameters whole where the network needs them.
  """
  if not isinstance(model, (AutoencoderKL, AutoencoderVQ)):
    raise UserError(
      f'A first stage of kind {type(model).__name__} has nothing to train; '
      'train a kl or vq one, or go straight to the diffusion stage.'
    )
  gradients = _make_gradients(model, spec, gather)

  def train_step(
    state: FirstStageState,
    frozen: Params,
    batch: Batch,
    rng: Array,
    take=take_always,
  ) -> tuple[FirstStageState, Metrics]:
    image = batch['image']
    noise_rng, dropout_rng = jax.random.split(
      jax.random.fold_in(rng, state.step)
    )
    # A key per image: its noise is the same however the batch is split.
    noise_rngs = jax.random.split(noise_rng, image.shape[0])
    parts = dealt((image, noise_rngs), grad_accum)
    dropout_rngs = jax.random.split(dropout_rng, grad_accum)

    def body(stats, part):
      (image, noise), dropout = part
      return gradients(state, stats, frozen, image, noise, dropout)

    disc_stats, (grads, disc_grads, metrics) = scan_mean(
      body, state.disc_stats, (parts, dropout_rngs)
    )
    metrics = _finish_metrics(metrics)
    metrics['grad_norm'] = optim.global_norm(grads)
    if spec.disc_weight:
      metrics['disc_grad_norm'] = optim.global_norm(disc_grads)
    update = lambda state: updated(state, grads, disc_grads, disc_stats)
    return take(state, update, metrics)

  def updated(state, grads, disc_grads, disc_stats) -> FirstStageState:
    trained = _trained(spec, state.params, state.logvar)
    updates, opt_state = tx.update(grads, state.opt_state, trained)
    trained = optax.apply_updates(trained, updates)
    disc_params, disc_opt_state = state.disc_params, state.disc_opt_state
    if spec.disc_weight:
      # Before its time its gradients are zero: the optimizer counts along, so
      # that its schedule stays with the autoencoder's, and moves nothing.
      updates, disc_opt_state = disc_tx.update(
        disc_grads, disc_opt_state, disc_params
      )
      learns = state.step >= spec.disc_start - spec.disc_warmup
      disc_params = jax.tree.map(
        lambda p, u: jnp.where(learns, p + u.astype(p.dtype), p),
        disc_params,
        updates,
      )
    return FirstStageState(
      step=state.step + 1,
      params=trained['model'],
      logvar=trained.get('logvar', state.logvar),
      opt_state=opt_state,
      disc_params=disc_params,
      disc_stats=disc_stats,
      disc_opt_state=disc_opt_state,
      watch=state.watch,
    )

  return train_step


def _make_gradients(model, spec: LossSpec, gather):
  """Returns the gradients of both networks on one part of the batch."""
  play = _make_game(spec, make_discriminator(spec, model.dtype))
  variational = isinstance(model, AutoencoderKL)

  def rebuild(last: Params, h: Array) -> Array:
    params = {'decoder': {'conv_out': last}}
    return model.apply({'params': params}, h, method='head')

  def reconstruction_term(recon, logvar, image, frozen):
    error = losses.pixel_error(spec.pixel, image, recon)
    metrics = {
      'pixel': jnp.mean(error),
      'mse': jnp.mean(jnp.square(image - recon)),
    }
    perceptual = jnp.zeros(image.shape[0])
    if spec.perceptual_weight:
      distance = lpips.LPIPS(model.dtype).apply(
        {'params': frozen['lpips']}, image, recon
      )
      metrics['lpips'] = jnp.mean(distance)
      perceptual = spec.perceptual_weight * distance
    if variational:
      return losses.kl_nll(error, perceptual, logvar), metrics
    return losses.vq_nll(error, perceptual), metrics

  def gradients(state, disc_stats, frozen, image, noise_rng, dropout_rng):
    """-> disc_stats, (gradients, discriminator's gradients, metrics)."""
    state = state.replace(
      params=gather(state.params), disc_params=gather(state.disc_params)
    )

    def autoencode(params):
      h, aux = model.apply(
        {'params': params},
        image,
        noise_rng,
        train=True,
        rngs={'dropout': dropout_rng},
        method='features',
      )
      regular, metrics = _regulariser(model, spec, aux)
      return (h, regular), metrics

    (h, regular), pull_features, metrics = jax.vjp(
      autoencode, state.params, has_aux=True
    )
    last = state.params['decoder']['conv_out']
    recon, pull_last = jax.vjp(rebuild, last, h)
    (nll, nll_metrics), (d_nll, d_logvar) = jax.value_and_grad(
      reconstruction_term, argnums=(0, 1), has_aux=True
    )(recon, state.logvar, image, frozen)

    # All terms meet at the reconstruction: each network is walked backwards
    # once, and the adaptive weight costs two gradients of one kernel.
    at_last_kernel = lambda d_recon: pull_last(d_recon)[0]['kernel']
    game = play(state, disc_stats, image, recon, d_nll, at_last_kernel)
    d_last, d_h = pull_last(d_nll + game.d_recon)
    (grads,) = pull_features((d_h, jnp.float32(1.0)))
    decoder = {**grads['decoder'], 'conv_out': d_last}
    grads = _trained(spec, {**grads, 'decoder': decoder}, d_logvar)
    metrics |= {
      'loss': nll + regular + game.loss,
      'rec': nll,
      **nll_metrics,
      **game.metrics,
    }
    return game.disc_stats, (grads, game.disc_grads, metrics)

  return gradients


def _regulariser(model, spec: LossSpec, aux) -> tuple[Array, Metrics]:
  """The weighted term that holds the latents together, and what to log."""
  z = jax.lax.stop_gradient(aux['z'])
  metrics = {
    'latent_mean': jnp.mean(z),
    'latent_square': jnp.mean(jnp.square(z)),
  }
  if isinstance(model, AutoencoderKL):
    kl = losses.kl_divergence(aux['mean'], aux['logvar'])
    return spec.kl_weight * kl, metrics | {'kl': kl}
  loss = losses.codebook_loss(aux['z'], aux['quantized'])
  shares = quantize.code_shares(aux['indices'], model.num_codes)
  metrics |= {'codebook_loss': loss, 'code_shares': shares}
  return spec.codebook_weight * loss, metrics


@flax.struct.dataclass
class _Game:
  """One round between autoencoder and discriminator."""

  loss: Array  # The autoencoder's term, weighted.
  d_recon: Array  # Its gradient at the reconstruction [B H W 3].
  disc_grads: Params
  disc_stats: Params
  metrics: Metrics


def _make_game(spec: LossSpec, discriminator: Discriminator | None):
  """Returns play(state, disc_stats, image, recon, d_nll, at_last_kernel).

  Until the discriminator's time comes, it is not run at all.
  """

  def rest(state, disc_stats, image, recon, d_nll, at_last_kernel) -> _Game:
    del image, d_nll, at_last_kernel
    names = ('disc_loss', 'gen_loss', 'd_weight', 'logits_real', 'logits_fake')
    return _Game(
      loss=jnp.float32(0.0),
      d_recon=jnp.zeros_like(recon),
      disc_grads=jax.tree.map(jnp.zeros_like, state.disc_params),
      disc_stats=disc_stats,
      metrics={name: jnp.float32(0.0) for name in names if discriminator},
    )

  if discriminator is None:
    return rest

  def judge(disc_stats, params, x):
    variables = {'params': params, 'batch_stats': disc_stats}
    logits, new = discriminator.apply(variables, x, mutable=['batch_stats'])
    return logits, new['batch_stats']

  def both(adversarial, state, disc_stats, image, recon, d_nll, at_last_kernel):
    params = state.disc_params
    fake, pull_fake, disc_stats = jax.vjp(
      functools.partial(judge, disc_stats), params, recon, has_aux=True
    )
    real, pull_real, disc_stats = jax.vjp(
      lambda p: judge(disc_stats, p, image), params, has_aux=True
    )
    disc_loss, (d_real, d_fake) = jax.value_and_grad(
      functools.partial(losses.discriminator_loss, spec.disc_loss), (0, 1)
    )(real, fake)
    # The autoencoder's turn needs the same logits of the same images.
    gen_loss, d_gen = jax.value_and_grad(losses.generator_loss)(fake)
    weight, d_recon = jnp.float32(0.0), jnp.zeros_like(recon)
    if adversarial:
      d_recon = pull_fake(d_gen)[1]
      weight += spec.disc_weight
      if spec.adaptive:
        weight *= losses.adaptive_weight(
          at_last_kernel(d_nll), at_last_kernel(d_recon)
        )
    return _Game(
      loss=weight * gen_loss,
      d_recon=weight * d_recon,
      disc_grads=jax.tree.map(
        jnp.add, pull_real(d_real)[0], pull_fake(d_fake)[0]
      ),
      disc_stats=disc_stats,
      metrics={
        'disc_loss': disc_loss,
        'gen_loss': gen_loss,
        'd_weight': weight,
        'logits_real': jnp.mean(real),
        'logits_fake': jnp.mean(fake),
      },
    )

  first = spec.disc_start - spec.disc_warmup
  phases = [(first, functools.partial(both, False))] if spec.disc_warmup else []
  phases.append((spec.disc_start, functools.partial(both, True)))
  if first:
    phases.insert(0, (0, rest))

  def play(state, *args) -> _Game:
    phase = sum(
      (state.step >= start).astype(jnp.int32) for start, _ in phases[1:]
    )
    return jax.lax.switch(
      phase, [functools.partial(f, state, *args) for _, f in phases]
    )

  return play


def _finish_metrics(metrics: Metrics) -> Metrics:
  """Turns the means over the batch into what is not a mean."""
  square = metrics.pop('latent_square')
  variance = square - jnp.square(metrics['latent_mean'])
  metrics['latent_std'] = jnp.sqrt(jnp.maximum(variance, 0.0))
  # Images span 2: [-1, 1].
  metrics['psnr'] = 10 * jnp.log10(4.0 / jnp.maximum(metrics.pop('mse'), 1e-10))
  if 'code_shares' in metrics:
    shares = metrics.pop('code_shares')
    metrics['perplexity'] = quantize.perplexity(shares)
    metrics['codebook_usage'] = quantize.usage(shares)
  return metrics
