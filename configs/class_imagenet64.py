"""Class-conditional photographs from a folder, at 64 px: ImageNet, or yours.

  python train.py --config=configs/class_imagenet64.py --workdir=DIR \
    --config.data.path=IMAGES --config.first_stage_from=FIRST
  python train.py --config=configs/class_imagenet64.py:tiny --workdir=DIR

IMAGES holds a folder per class, or metadata.jsonl with a label per file; FIRST
is a run of configs/first_stage/imagenet64_kl.py. For n classes of your own add
--config.task.num_classes=n+1: the last row is the null class of guidance.
"""

from configs import common
from configs.first_stage import imagenet64_kl


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=imagenet64_kl.get_model(),
    task=dict(name='class_label', num_classes=1001, width=256),
    null_prob=0.1,
    unet=dict(
      channels=128,
      multipliers=(1, 2, 3),
      attention_levels=(1, 2),
      head_width=32,
      attention='cross',
    ),
    data=dict(size=64, flip=True, holdout=0.05),
    optim=dict(learning_rate=1e-4, warmup_steps=1_000, clip_norm=1.0),
    batch_size=128,
    num_steps=200_000,
    sampling=dict(num=16, guidance=1.5),
  )
  return common.select(config, variant)
