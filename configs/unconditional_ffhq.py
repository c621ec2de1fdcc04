"""Unconditional FFHQ 256, LDM-4: Table 12.

  python train.py --config=configs/unconditional_ffhq.py --workdir=DIR \
    --config.first_stage_from=RUNS/vq_f4 --config.data.path=IMAGES
  python train.py --config=configs/unconditional_ffhq.py:tiny --workdir=DIR

FID 4.98, precision 0.73, recall 0.50 with 200 DDIM steps, eta = 1 (Table 1);
26 V100-days (Table 18). U-Net 274.06M. The released model is this one.
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
    data=dict(holdout=0.1),
    optim=dict(learning_rate=8.4e-5),
    batch_size=42,
    num_steps=635_000,
  )
  return common.select(config, variant)
