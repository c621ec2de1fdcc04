"""What a run is made of knows the shapes of its arrays."""

import numpy as np
import pytest

from ldm_jax import build
from ldm_jax.types import UserError
from tests import tiny


def parts(**changes):
  return build.parts(tiny.merged(tiny.diffusion(), changes))


def test_sides_of_latents_are_those_of_images_by_the_first_stages_f():
  found = parts()
  f, c = found.first_stage.downsampling, found.first_stage.latent_channels
  assert found.latent_shape == (found.data.size // f,) * 2 + (c,)
  assert found.latent_shape_of(2 * f, 3 * f) == (2, 3, c)
  with pytest.raises(UserError, match=f"by the first stage's f={f}"):
    found.latent_shape_of(2 * f + 1, 3 * f)


def test_what_is_drawn_must_halve_as_often_as_the_unet_does():
  found = parts()
  f, multiple = found.first_stage.downsampling, found.latent_multiple
  assert multiple == 2 ** (len(found.model.unet.multipliers) - 1) > 1
  assert found.sampled_shape(multiple * f, 2 * multiple * f)[:2] == (
    multiple,
    2 * multiple,
  )
  with pytest.raises(UserError, match=f'multiples of {multiple * f} pixels'):
    found.sampled_shape(f, multiple * f)
  with pytest.raises(UserError, match='16x32 or 24x32 .--size'):
    found.sampled_shape(20, 32)
  with pytest.raises(UserError, match='16x8 or 24x8 .--size'):
    found.sampled_shape(17, 3)


def test_a_training_batch_holds_latents_where_they_are_cached():
  side = parts().data.size
  images, latents = (
    parts(latent_cache=folder).blank_batch(3)['image']
    for folder in ('', 'somewhere')
  )
  assert images.shape == (3, side, side, 3) and not np.any(images)
  assert latents.shape == (3, *parts(latent_cache='somewhere').cached_shape)
