"""Class-conditional ImageNet 256, LDM-8: Table 13.

  python train.py --config=configs/class_imagenet_f8.py --workdir=DIR \
    --config.first_stage_from=RUNS/vq_f8
  python train.py --config=configs/class_imagenet_f8.py:tiny --workdir=DIR

FID 15.51, IS 79.03 with 200 DDIM steps after 4.8M steps (Table 10), 17.41
after 2.9M, 79 V100-days (Table 18). U-Net 394.98M. The released model,
":released", has heads of width 32 where Table 13 prints one head.
"""

from configs import common
from configs.first_stage import vq_f8


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=vq_f8.get_model(),
    task=dict(name='class_label', num_classes=1000, width=512),
    unet=dict(
      channels=256,
      multipliers=(1, 2, 4),
      attention_levels=(0, 1, 2),
      num_heads=1,
      attention='cross',
    ),
    scale_factor=1.0,
    data=dict(source='tfds:imagenet2012', crop='random'),
    optim=dict(learning_rate=6.4e-5),
    batch_size=64,
    num_steps=2_000_000,
  )
  return common.select(
    config,
    variant,
    released=dict(unet=dict(head_width=32, num_heads=None)),
  )
