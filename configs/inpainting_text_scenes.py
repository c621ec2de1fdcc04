"""Inpainting of drawn scenes with text: concat and cross-attention at once.

  python train.py --config=configs/inpainting_text_scenes.py --workdir=DIR \
    --config.first_stage_from=FIRST
  python train.py --config=configs/inpainting_text_scenes.py:tiny --workdir=DIR

FIRST is a run of configs/first_stage/scenes_kl.py. A CPU is enough.
"""

from configs import common, inpainting_scenes, text_scenes


def get_config(variant: str = ''):
  config = text_scenes.base()
  masked = inpainting_scenes.get_config().task
  config.task.update({**masked, 'name': 'inpainting_text'})
  return common.select(config, variant)
