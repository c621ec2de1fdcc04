"""The frozen first stage: its scale, and refusing another one."""

import jax
import numpy as np
import pytest

from ldm_jax.first_stage.autoencoder import Identity
from ldm_jax.first_stage.codec import Codec
from ldm_jax.training import frozen
from ldm_jax.types import UserError

CODEC = Codec(Identity())


def batches(scale, count=3):
  for i in range(count):
    x = jax.random.normal(jax.random.key(i), (16, 8, 8, 3))
    yield {'image': 5.0 + scale * x}


def test_scaled_latents_have_unit_deviation():
  found = frozen.estimate_scale(CODEC, {}, batches(4.0), jax.random.key(0))
  everything = np.concatenate([b['image'] for b in batches(4.0)])
  np.testing.assert_allclose(found, 1 / everything.std(), rtol=1e-4)


def test_constant_latents_have_no_scale():
  with pytest.raises(UserError, match='same latent'):
    frozen.estimate_scale(CODEC, {}, batches(0.0), jax.random.key(0))


def test_a_workdir_that_is_not_there_is_named(tmp_path):
  with pytest.raises(UserError, match='nowhere'):
    frozen.load_first_stage(tmp_path / 'nowhere')


@pytest.mark.parametrize(('std', 'warns'), [(1.0, 0), (0.7, 1), (1.5, 1)])
def test_latents_off_their_scale_are_told(std, warns, caplog):
  with caplog.at_level('WARNING', logger='absl'):
    frozen.warn_if_off_scale(7, std)
  assert len(caplog.records) == warns
