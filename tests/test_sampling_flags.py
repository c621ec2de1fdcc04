"""Settings of sampling, from flags."""

import pytest
from absl import flags
from absl.testing import flagsaver

from ldm_jax import sampling_flags
from ldm_jax.diffusion.settings import Settings
from ldm_jax.types import UserError


def test_settings_of_flags():
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  assert sampling_flags.settings() == Settings()
  with flagsaver.flagsaver(
    sampler='unipc', guidance_interval=['100', '700.5'], guidance_rescale=0.7
  ):
    settings = sampling_flags.settings()
  assert settings.sampler == 'unipc' and settings.guidance_rescale == 0.7
  assert settings.guidance_interval == (100.0, 700.5)
  for wrong in (['100'], ['a', 'b'], ['7', '3']):
    with flagsaver.flagsaver(guidance_interval=wrong):
      with pytest.raises(UserError, match='guidance_interval='):
        sampling_flags.settings()
