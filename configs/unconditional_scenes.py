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
  # Told nothing, it has all to learn: the last fifth, in which the rate falls,
  # is what makes its shapes ones that a classifier can name (docs/guidance.md).
  config.num_steps = 5000
  config.optim.schedule, config.optim.hold_steps = 'cosine', 4000
  return common.select(config, variant)
