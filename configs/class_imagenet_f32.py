"""Class-conditional ImageNet 256, LDM-32: Table 13.

  python train.py --config=configs/class_imagenet_f32.py --workdir=DIR \
    --config.first_stage_from=RUNS/vq_f32_c32
  python train.py --config=configs/class_imagenet_f32.py:tiny --workdir=DIR

Fig. 6 draws FID over these 2M steps and prints no figure. U-Net 395.11M.
"""

from configs import common
from configs.first_stage import vq_f32_c32


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=vq_f32_c32.get_model(),
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
    optim=dict(learning_rate=4.5e-5),
    batch_size=112,
    num_steps=2_000_000,
  )
  return common.select(config, variant)
