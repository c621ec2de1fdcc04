"""Class-conditional drawn scenes: 40 classes, a colour and a shape each.

  python train.py --config=configs/class_scenes.py --workdir=DIR \
    --config.first_stage_from=FIRST
  python train.py --config=configs/class_scenes.py:tiny --workdir=DIR

FIRST is a run of configs/first_stage/scenes_kl.py. A CPU is enough.
"""

from configs import common, text_scenes


def get_config(variant: str = ''):
  config = text_scenes.base()
  # The last row is the null class of guidance.
  config.task = common.make_task('class_label', num_classes=41, width=64)
  return common.select(config, variant)
