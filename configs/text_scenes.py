"""The quickstart's model: text to image on drawn 32 px scenes.

  python train.py --config=configs/first_stage/scenes_kl.py --workdir=FIRST
  python train.py --config=configs/text_scenes.py --workdir=DIR \
    --config.first_stage_from=FIRST
  python train.py --config=configs/text_scenes.py:tiny --workdir=DIR

A CPU of two cores is enough. Expect guided samples of 200 held-out captions to
obey colour in 95%, place in 90% and shape in 85%.
"""

from configs import common
from configs.first_stage import scenes_kl


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=scenes_kl.get_model(),
    task=dict(
      name='text',
      width=64,
      depth=2,
      vocab_file='scenes',
      vocab_size=39,
      special_tokens=(2, 3, 0),
      length=24,
      num_heads=4,
      head_width=16,
    ),
    null_prob=0.1,
    unet=dict(
      channels=64,
      multipliers=(1, 2),
      attention_levels=(0, 1),
      num_res_blocks=1,
      head_width=32,
      attention='cross',
    ),
    data=common.scenes(),
    optim=dict(
      learning_rate=1e-3,
      schedule='cosine',
      warmup_steps=100,
      clip_norm=1.0,
    ),
    batch_size=64,
    num_steps=1500,
    sampling=dict(num=16, guidance=2.0),
  )
  config.dtype, config.ema_decay = 'float32', 0.995
  config.log_every, config.show_every, config.save_every = 50, 500, 500
  return common.select(config, variant)
