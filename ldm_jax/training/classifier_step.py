"""One optimisation step of the classifier of noisy latents."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ldm_jax.diffusion.loss import add_noise
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.first_stage.codec import Codec
from ldm_jax.models.classifier import NoisyClassifier
from ldm_jax.training.accumulate import accumulated_grad, descend
from ldm_jax.training.guard import take as take_always
from ldm_jax.types import Array, Batch, Params


@flax.struct.dataclass
class ClassifierState:
  """Everything a resumed run needs, and only arrays."""

  step: Array  # int32 scalar
  params: Params
  opt_state: optax.OptState
  # What the guard remembers; empty unless guard.spike_limit is set.
  watch: Params = flax.struct.field(default_factory=dict)


def init_state(model: NoisyClassifier, tx, z_shape, rng: Array):
  """A fresh state; z_shape is (h, w, c)."""
  z, t = jnp.zeros((1, *z_shape)), jnp.zeros((1,), jnp.int32)
  params = model.init(rng, z, t)['params']
  return ClassifierState(jnp.zeros((), jnp.int32), params, tx.init(params))


# Noise levels of the held-out scores: the data itself, then quarters of T.
LEVELS = 4


def make_evaluation(
  model: NoisyClassifier, codec: Codec, schedule: Schedule
) -> Callable:
  """Returns evaluate(params, frozen, batch, rng) -> (right, seen).

  right [LEVELS B] says whether the class was found, and seen [LEVELS B H W 3]
  is what it was found in, decoded; level i is timestep i T / LEVELS.
  """

  def evaluate(params: Params, frozen: Params, batch: Batch, rng: Array):
    z = codec.encode(frozen, batch['image'])
    eps = jax.random.normal(rng, z.shape)
    rights, seen = [], []
    for level in range(LEVELS):
      t = jnp.full(len(z), level * schedule.num_timesteps // LEVELS)
      z_t = add_noise(schedule, z, t, eps)
      logits = model.apply({'params': params}, z_t, t)
      rights.append(jnp.argmax(logits, -1) == batch['label'])
      seen.append(codec.decode(frozen, z_t))
    return jnp.stack(rights), jnp.stack(seen)

  return evaluate


def make_train_step(
  model: NoisyClassifier,
  codec: Codec,
  schedule: Schedule,
  tx: optax.GradientTransformation,
  grad_accum: int = 1,
  gather: Callable[[Params], Params] = lambda params: params,
):
  """Returns train_step(state, frozen, batch, rng) -> (state, metrics).

  Cross-entropy of `label` [B] at timesteps drawn as the diffusion's are.
  """

  def loss_fn(params, frozen, batch, rng):
    encode_rng, dropout_rng, t_rng, eps_rng = jax.random.split(rng, 4)
    z = codec.encode(frozen, batch['image'], encode_rng)  # [B h w c]
    t = jax.random.randint(t_rng, z.shape[:1], 0, schedule.num_timesteps)
    z_t = add_noise(schedule, z, t, jax.random.normal(eps_rng, z.shape))
    logits = model.apply(
      {'params': gather(params)},
      z_t,
      t,
      train=True,
      rngs={'dropout': dropout_rng},
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    ).mean()
    right = jnp.argmax(logits, -1) == batch['label']
    metrics = {
      'loss': loss,
      'accuracy': jnp.mean(right.astype(jnp.float32)),
      'latent_std': jnp.std(z),
    }
    return loss, metrics

  def train_step(state, frozen, batch, rng, take=take_always):
    grads, metrics = accumulated_grad(
      lambda params, batch, rng: loss_fn(params, frozen, batch, rng),
      state.params,
      batch,
      jax.random.fold_in(rng, state.step),
      grad_accum,
    )

    def update(state: ClassifierState) -> ClassifierState:
      params, opt_state = descend(tx, grads, state.opt_state, state.params)
      return ClassifierState(state.step + 1, params, opt_state, state.watch)

    return take(state, update, metrics)

  return train_step
