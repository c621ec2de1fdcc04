"""Unconditional CelebA-HQ 256, LDM-2: Table 14.

  python train.py --config=configs/unconditional_celeba_f2.py --workdir=DIR \
    --config.first_stage_from=RUNS/vq_f2
  python train.py --config=configs/unconditional_celeba_f2.py:tiny --workdir=DIR

Fig. 7 draws FID against speed and prints no figure. U-Net 264.51M.
"""

from configs import common
from configs.first_stage import vq_f2


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=vq_f2.get_model(),
    task=dict(name='unconditional'),
    unet=dict(
      channels=192,
      multipliers=(1, 2, 2, 4, 4),
      attention_levels=(2, 3, 4),
      head_width=32,
    ),
    scale_factor=1.0,
    data=dict(
      source='tfds:celeb_a_hq/256',
      train_split='train[:90%]',
      eval_split='train[90%:]',
    ),
    optim=dict(learning_rate=1.1e-4),
    batch_size=11,
    num_steps=500_000,
  )
  return common.select(config, variant)
