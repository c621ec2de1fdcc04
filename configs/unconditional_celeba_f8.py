"""Unconditional CelebA-HQ 256, LDM-8: Table 14.

  python train.py --config=configs/unconditional_celeba_f8.py --workdir=DIR \
    --config.first_stage_from=RUNS/vq_f8
  python train.py --config=configs/unconditional_celeba_f8.py:tiny --workdir=DIR

Fig. 7 draws FID against speed and prints no figure. U-Net 257.73M.
"""

from configs import common
from configs.first_stage import vq_f8


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=vq_f8.get_model(),
    task=dict(name='unconditional'),
    unet=dict(
      channels=256,
      multipliers=(1, 2, 4),
      attention_levels=(0, 1, 2),
      head_width=32,
    ),
    scale_factor=1.0,
    data=dict(
      source='tfds:celeb_a_hq/256',
      train_split='train[:90%]',
      eval_split='train[90%:]',
    ),
    optim=dict(learning_rate=9.6e-5),
    batch_size=96,
    num_steps=500_000,
  )
  return common.select(config, variant)
