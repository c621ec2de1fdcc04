"""Inpainting of drawn scenes, with LaMa's masks.

  python train.py --config=configs/inpainting_scenes.py --workdir=DIR \
    --config.first_stage_from=FIRST
  python train.py --config=configs/inpainting_scenes.py:tiny --workdir=DIR

FIRST is a run of configs/first_stage/scenes_kl.py. A CPU is enough.
"""

from configs import common, text_scenes


def get_config(variant: str = ''):
  config = text_scenes.base()
  config.task = common.make_task('inpainting', masks='lama_256')
  config.unet.attention = 'self'
  config.batch_size, config.num_steps = 16, 3000
  config.sampling.guidance = 1.0
  return common.select(config, variant)
