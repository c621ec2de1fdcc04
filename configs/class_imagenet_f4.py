"""Class-conditional ImageNet 256, LDM-4: Table 13.

  python train.py --config=configs/class_imagenet_f4.py --workdir=DIR \
    --config.first_stage_from=RUNS/vq_f4
  python train.py --config=configs/class_imagenet_f4.py:tiny --workdir=DIR

Fig. 6 draws FID over these 2M steps and prints no figure. U-Net 400.92M. Table
13 prints 391M, Tables 3 and 18 400M.
"""

from configs import common
from configs.first_stage import vq_f4


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=vq_f4.get_model(),
    task=dict(name='class_label', num_classes=1000, width=512),
    unet=dict(
      channels=192,
      multipliers=(1, 2, 3, 5),
      attention_levels=(1, 2, 3),
      num_heads=1,
      attention='cross',
    ),
    scale_factor=1.0,
    data=dict(source='tfds:imagenet2012', crop='random'),
    optim=dict(learning_rate=8e-5),
    batch_size=40,
    num_steps=2_000_000,
  )
  return common.select(config, variant)
