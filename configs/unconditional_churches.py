"""Unconditional LSUN-Churches 256, LDM-8: Table 12.

  python train.py --config=configs/unconditional_churches.py --workdir=DIR \
    --config.first_stage_from=RUNS/kl_f8
  python train.py --config=configs/unconditional_churches.py:tiny --workdir=DIR

FID 4.02, precision 0.64, recall 0.52 with 200 DDIM steps (Table 1); 18
V100-days (Table 18). U-Net 256.40M as in Table 18; Table 12 prints 294M, which
is the released model, ":released": 294.97M with 8 heads at every level, scale-
shift norm and residual resampling. Its README samples with 400 steps.
"""

from configs import common
from configs.first_stage import kl_f8


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=kl_f8.get_model(),
    task=dict(name='unconditional'),
    unet=dict(
      channels=192,
      multipliers=(1, 2, 2, 4, 4),
      attention_levels=(0, 1, 2, 3),
      head_width=24,
    ),
    schedule=dict(end=0.0155),
    loss=dict(kind='l1'),
    data=dict(source='tfds:lsun/church_outdoor', flip=True),
    optim=dict(learning_rate=5e-5, warmup_steps=10_000),
    batch_size=96,
    num_steps=500_000,
  )
  return common.select(
    config,
    variant,
    released=dict(
      unet=dict(
        head_width=None,
        num_heads=8,
        scale_shift_norm=True,
        resblock_updown=True,
      )
    ),
  )
