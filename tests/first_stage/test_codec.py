"""The codec scales what the first stage encodes, and undoes it."""

import jax
import numpy as np
import pytest

from ldm_jax.first_stage.autoencoder import AutoencoderKL, AutoencoderVQ
from ldm_jax.first_stage.codec import Codec

SMALL = {
  'z_channels': 3, 'embed_dim': 3, 'channels': 8, 'multipliers': (1, 2),
  'num_res_blocks': 1, 'norm_groups': 4, 'mid_attention': False,
}  # fmt: skip


@pytest.mark.parametrize(
  'model', [AutoencoderKL(**SMALL), AutoencoderVQ(**SMALL, num_codes=16)]
)
def test_scale_goes_in_and_out(model):
  image = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3), minval=-1)
  params = model.init(jax.random.key(1), image)['params']
  codec = Codec(model)
  frozen = {'first_stage': params, 'scale_factor': 0.25}
  z = codec.encode(frozen, image)
  plain = model.apply({'params': params}, image, method='encode')
  np.testing.assert_allclose(z, 0.25 * plain, rtol=1e-6)
  np.testing.assert_allclose(
    codec.decode(frozen, z),
    model.apply({'params': params}, plain, method='decode'),
    atol=1e-5,
  )
