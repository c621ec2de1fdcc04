"""A VQ first stage, f = 4, c = 4, 512 codes, on drawn 32 px scenes.

  python train.py --config=configs/first_stage/scenes_vq.py --workdir=DIR
  python train.py --config=configs/first_stage/scenes_vq.py:tiny --workdir=DIR

A CPU of two cores is enough.
"""

from configs import common
from configs.first_stage import scenes_kl


def get_model():
  return scenes_kl.get_model() | dict(name='vq', num_codes=512)


def get_config(variant: str = ''):
  config = scenes_kl.get_config()
  config.first_stage = get_model()
  return common.select(config, variant)
