"""One optimisation step of the latent diffusion model."""

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ldm_jax.diffusion.loss import LossSpec, diffusion_loss
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.first_stage.codec import Codec
from ldm_jax.models.latent_diffusion import LatentDiffusion
from ldm_jax.training.accumulate import accumulated_grad, descend
from ldm_jax.training.guard import take as take_always
from ldm_jax.types import Array, Batch, Params


@flax.struct.dataclass
class TrainState:
  """Everything a resumed run needs, and only arrays."""

  step: Array  # int32 scalar
  params: Params
  ema: Params  # of the U-Net only, as released
  opt_state: optax.OptState
  # What the guard remembers; empty unless guard.spike_limit is set.
  watch: Params = flax.struct.field(default_factory=dict)


def init_state(model, tx, z_shape, batch: Batch, encode, rng: Array):
  """A fresh state; z_shape is (h, w, c), batch gives shapes only."""
  size = jax.tree.leaves(batch)[0].shape[0]
  params = model.init(
    {'params': rng},
    jnp.zeros((size, *z_shape)),
    jnp.zeros((size,), jnp.int32),
    batch,
    encode,
  )['params']
  # Another buffer than params: both are donated.
  ema = jax.tree.map(jnp.copy, params['unet'])
  return TrainState(jnp.zeros((), jnp.int32), params, ema, tx.init(params))


def ema_decay_at(updates: Array, decay: float) -> Array:
  """min(decay, (1 + n) / (10 + n)): the average forgets its start quickly."""
  n = updates.astype(jnp.float32)
  return jnp.minimum(decay, (1.0 + n) / (10.0 + n))


def make_train_step(
  model: LatentDiffusion,
  codec: Codec,
  schedule: Schedule,
  loss_spec: LossSpec,
  tx: optax.GradientTransformation,
  ema_decay: float = 0.9999,
  grad_accum: int = 1,
  gather: Callable[[Params], Params] = lambda params: params,
):
  """Returns train_step(state, frozen, batch, rng) -> (state, metrics).

  `gather` makes sharded parameters whole where the network needs them.
  """

  def loss_fn(params, frozen, batch, rng):
    params = gather(params)
    encode_rng, dropout_rng, null_rng, loss_rng = jax.random.split(rng, 4)
    z = codec.encode(frozen, batch['image'], encode_rng)  # [B h w c]
    encode = functools.partial(codec.encode, frozen)

    def predict(z_t, t):
      return model.apply(
        {'params': params},
        z_t,
        t,
        batch,
        encode,
        train=True,
        rngs={'dropout': dropout_rng, 'null': null_rng},
      )

    logvar = None
    if loss_spec.learn_logvar:
      logvar = lambda t: model.apply({'params': params}, t, method='logvar')
    loss, parts = diffusion_loss(
      loss_spec, schedule, predict, z, loss_rng, logvar
    )
    metrics = {'loss': loss, **parts, 'latent_std': jnp.std(z)}
    return loss.mean(), {k: v.mean() for k, v in metrics.items()}

  def train_step(state, frozen, batch, rng, take=take_always):
    grads, metrics = accumulated_grad(
      lambda params, batch, rng: loss_fn(params, frozen, batch, rng),
      state.params,
      batch,
      jax.random.fold_in(rng, state.step),
      grad_accum,
    )

    def update(state: TrainState) -> TrainState:
      params, opt_state = descend(tx, grads, state.opt_state, state.params)
      step = state.step + 1
      ema = optax.incremental_update(
        params['unet'], state.ema, 1.0 - ema_decay_at(step, ema_decay)
      )
      return TrainState(step, params, ema, opt_state, state.watch)

    return take(state, update, metrics)

  return train_step
