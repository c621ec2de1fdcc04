"""Class-conditional ImageNet 256, LDM-1: Table 13.

  python train.py --config=configs/class_imagenet_f1.py --workdir=DIR
  python train.py --config=configs/class_imagenet_f1.py:tiny --workdir=DIR

Fig. 6 draws FID over these 2M steps and prints no figure. U-Net 396.84M.
"""

from configs import common
from configs.first_stage import identity


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=identity.get_model(),
    task=dict(name='class_label', num_classes=1000, width=512),
    unet=dict(
      channels=192,
      multipliers=(1, 1, 2, 2, 4, 4),
      attention_levels=(3, 4, 5),
      num_heads=1,
      attention='cross',
    ),
    scale_factor=1.0,
    data=dict(source='tfds:imagenet2012', crop='random'),
    optim=dict(learning_rate=4.9e-5),
    batch_size=7,
    num_steps=2_000_000,
  )
  return common.select(config, variant)
