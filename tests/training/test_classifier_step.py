"""The classifier's step learns; the first stage stays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldm_jax.diffusion.schedule import make
from ldm_jax.first_stage.autoencoder import Identity
from ldm_jax.first_stage.codec import Codec
from ldm_jax.models.classifier import NoisyClassifier
from ldm_jax.training import classifier_step

MODEL = NoisyClassifier(
  num_classes=2,
  channels=8,
  multipliers=(1,),
  attention_levels=(),
  num_res_blocks=1,
  num_heads=2,
  pool='adaptive',
  norm_groups=4,
)


def test_two_classes_are_told_apart_and_randomness_is_the_steps():
  tx = optax.adam(1e-2)
  step = jax.jit(
    classifier_step.make_train_step(
      MODEL, Codec(Identity()), make(end=0.005), tx
    )
  )
  label = np.arange(8) % 2
  image = (
    np.ones((8, 4, 4, 3), np.float32) * (2 * label - 1)[:, None, None, None]
  )
  batch = {'image': image, 'label': label}
  frozen = {'first_stage': {}, 'scale_factor': jnp.float32(1)}
  state = classifier_step.init_state(MODEL, tx, (4, 4, 3), jax.random.key(0))
  rng = jax.random.key(1)
  first, metrics = step(state, frozen, batch, rng)
  np.testing.assert_allclose(metrics['loss'], np.log(2), rtol=1e-5)
  again, _ = step(state, frozen, batch, rng)
  jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
  for _ in range(60):
    state, metrics = step(state, frozen, batch, rng)
  assert state.step == 60
  assert metrics['loss'] < 0.3 and metrics['accuracy'] >= 0.85
