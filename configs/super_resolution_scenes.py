"""Super-resolution x4 of drawn scenes, 8 px to 32 px.

  python train.py --config=configs/super_resolution_scenes.py --workdir=DIR \
    --config.first_stage_from=FIRST
  python train.py --config=configs/super_resolution_scenes.py:tiny \
    --workdir=DIR

FIRST is a run of configs/first_stage/scenes_kl.py. A CPU is enough. ":bsr" is
trained on the light BSR degradation.
"""

from configs import common, text_scenes


def get_config(variant: str = ''):
  config = text_scenes.base()
  config.task = common.make_task(
    'super_resolution', factor=4, degradation='bicubic'
  )
  config.unet.attention = 'self'
  config.batch_size, config.num_steps = 16, 3000
  config.sampling.guidance = 1.0
  return common.select(
    config, variant, bsr=dict(task=dict(degradation='bsr_light'))
  )
