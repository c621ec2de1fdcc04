"""Layout to image on OpenImages at 256, LDM-4: Tables 15 and 17.

  python train.py --config=configs/layout_openimages.py --workdir=DIR \
    --config.first_stage_from=RUNS/vq_f4 --config.data.path=OPENIMAGES
  python train.py --config=configs/layout_openimages.py:tiny --workdir=DIR

FID 32.02 with 200 DDIM steps (Table 9). U-Net 246.28M, encoder 54.66M. The
released model, ":released", has heads of width 32 where Table 15 prints one.
Its crops are of any size from 256 pixels on; here they are as large as they can
be, anywhere along the longer side.
"""

from configs import common
from configs.first_stage import vq_f4


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=vq_f4.get_model(),
    task=dict(
      name='layout',
      width=512,
      depth=16,
      vocab_size=8192,
      length=92,
      num_classes=601,
    ),
    unet=dict(
      channels=128,
      multipliers=(1, 2, 3, 4),
      attention_levels=(1, 2, 3),
      num_heads=1,
      attention='cross',
      transformer_depth=3,
    ),
    schedule=dict(end=0.0205),
    loss=dict(kind='l1'),
    scale_factor=1.0,
    data=dict(source='openimages', crop='random', flip=True),
    optim=dict(learning_rate=4.8e-5),
    batch_size=24,
    num_steps=4_400_000,
  )
  return common.select(
    config,
    variant,
    released=dict(unet=dict(head_width=32, num_heads=None)),
  )
