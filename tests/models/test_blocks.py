"""Tests for ldm_jax.models.blocks; its networks' own tests say the rest."""

import jax
import numpy as np

from ldm_jax.models.unet import UNet
from ldm_jax.types import Conditioning


def test_remat_changes_no_name():
  fields = dict(
    out_channels=3,
    channels=8,
    multipliers=(1, 2),
    attention_levels=(0,),
    num_res_blocks=1,
    head_width=4,
    norm_groups=4,
    attention='cross',
  )
  z = np.zeros((1, 8, 8, 3), np.float32)
  cond = Conditioning(context=np.zeros((1, 2, 6), np.float32))
  trees = [
    jax.eval_shape(
      UNet(**fields, remat=remat).init, jax.random.key(0), z, np.zeros(1), cond
    )
    for remat in (False, True)
  ]
  assert trees[0] == trees[1]
