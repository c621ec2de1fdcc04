"""Semantic maps to drawn scenes: the ground and 40 classes.

  python train.py --config=configs/semantic_scenes.py --workdir=DIR \
    --config.first_stage_from=FIRST
  python train.py --config=configs/semantic_scenes.py:tiny --workdir=DIR

FIRST is a run of configs/first_stage/scenes_kl.py. A CPU is enough.
"""

from configs import common, text_scenes


def get_config(variant: str = ''):
  config = text_scenes.base()
  # Eight channels keep 41 classes apart when a cell has two of them.
  config.task = common.make_task(
    'semantic', num_classes=41, channels=8, stages=2
  )
  config.unet.attention = 'self'
  config.num_steps = 2000
  return common.select(config, variant)
