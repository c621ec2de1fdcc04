"""Layout to image on COCO at 256, LDM-8: Tables 15 and 17.

  python train.py --config=configs/layout_coco.py --workdir=DIR \
    --config.first_stage_from=RUNS/vq_f8 --config.data.path=COCO
  python train.py --config=configs/layout_coco.py:tiny --workdir=DIR

FID 42.06 with 100 DDIM steps, from scratch (Table 9). U-Net 312.24M, encoder
54.66M; Table 15 prints 345M in all. Not released: schedule and loss are those
of layout_openimages, crops and flips those that taming trains with on COCO.
"""

from configs import common
from configs.first_stage import vq_f8


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=vq_f8.get_model(),
    task=dict(
      name='layout',
      width=512,
      depth=16,
      vocab_size=8192,
      length=92,
      num_classes=80,
    ),
    unet=dict(
      channels=192,
      multipliers=(1, 2, 4),
      attention_levels=(0, 1, 2),
      num_heads=1,
      attention='cross',
      transformer_depth=2,
      dropout=0.1,
    ),
    schedule=dict(end=0.0205),
    loss=dict(kind='l1'),
    scale_factor=1.0,
    data=dict(source='coco', crop='random', flip=True),
    optim=dict(learning_rate=4.8e-5),
    batch_size=48,
    num_steps=170_000,
  )
  return common.select(config, variant)
