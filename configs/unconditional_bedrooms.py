"""Unconditional LSUN-Bedrooms 256, LDM-4: Table 12.

  python train.py --config=configs/unconditional_bedrooms.py --workdir=DIR \
    --config.first_stage_from=RUNS/vq_f4
  python train.py --config=configs/unconditional_bedrooms.py:tiny --workdir=DIR

FID 2.95, precision 0.66, recall 0.48 with 200 DDIM steps, eta = 1 (Table 1);
60 V100-days (Table 18). U-Net 274.06M. The released model is this one.
"""

from configs import common
from configs.first_stage import vq_f4


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=vq_f4.get_model(),
    task=dict(name='unconditional'),
    unet=dict(
      channels=224,
      multipliers=(1, 2, 3, 4),
      attention_levels=(1, 2, 3),
      head_width=32,
    ),
    scale_factor=1.0,
    data=dict(source='tfds:lsun/bedroom', flip=True),
    optim=dict(learning_rate=9.6e-5),
    batch_size=48,
    num_steps=1_900_000,
  )
  return common.select(config, variant)
