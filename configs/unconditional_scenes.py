"""Unconditional drawn 32 px scenes.

  python train.py --config=configs/unconditional_scenes.py --workdir=DIR \
    --config.first_stage_from=FIRST
  python train.py --config=configs/unconditional_scenes.py:tiny --workdir=DIR

FIRST is a run of configs/first_stage/scenes_kl.py. A CPU is enough.
"""

from configs import common, text_scenes


def get_config(variant: str = ''):
  config = text_scenes.base()
  config.task = common.make_task('unconditional')
  config.null_prob, config.sampling.guidance = 0.0, 1.0
  config.unet.attention = 'self'
  config.num_steps = 4000
  return common.select(config, variant)
