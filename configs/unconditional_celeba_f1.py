"""Unconditional CelebA-HQ 256, LDM-1: Table 14.

  python train.py --config=configs/unconditional_celeba_f1.py --workdir=DIR
  python train.py --config=configs/unconditional_celeba_f1.py:tiny --workdir=DIR

Fig. 7 draws FID against speed and prints no figure. U-Net 270.46M.
"""

from configs import common
from configs.first_stage import identity


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=identity.get_model(),
    task=dict(name='unconditional'),
    unet=dict(
      channels=192,
      multipliers=(1, 1, 2, 2, 4, 4),
      attention_levels=(3, 4, 5),
      head_width=32,
    ),
    scale_factor=1.0,
    data=dict(
      source='tfds:celeb_a_hq/256',
      train_split='train[:90%]',
      eval_split='train[90%:]',
    ),
    optim=dict(learning_rate=9e-5),
    batch_size=9,
    num_steps=500_000,
  )
  return common.select(config, variant)
