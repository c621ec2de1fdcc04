"""Semantic maps to landscapes at 256, LDM-4: Table 15 and Sec. 4.3.2.

  python train.py --config=configs/semantic_landscapes.py --workdir=DIR \
    --config.first_stage_from=RUNS/vq_f4 --config.data.path=PAIRS
  python train.py --config=configs/semantic_landscapes.py:tiny --workdir=DIR

No figures are printed; see Fig. 9. U-Net 215.23M; only its middle block
attends. Sec. 4.3.2 and the release have f = 4, Table 15 prints f = 8.
":released" is semantic_synthesis256, with 8 heads; ":released512" was tuned at
a lower rate, on crops of 512 from images whose shorter side is 768.
"""

from configs import common
from configs.first_stage import vq_f4


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=vq_f4.get_model(),
    task=dict(name='semantic', num_classes=182, channels=3, stages=2),
    unet=dict(
      channels=128,
      multipliers=(1, 4, 8),
      attention_levels=(),
      num_heads=1,
    ),
    schedule=dict(end=0.0205),
    loss=dict(kind='l1'),
    scale_factor=1.0,
    data=dict(source='pairs', crop='random'),
    optim=dict(learning_rate=4.8e-5),
    batch_size=48,
    num_steps=360_000,
  )
  return common.select(
    config,
    variant,
    released=dict(unet=dict(num_heads=8)),
    released512=dict(
      unet=dict(num_heads=8),
      data=dict(size=512, resize=768),
      optim=dict(learning_rate=8e-6),
      batch_size=8,
    ),
  )
