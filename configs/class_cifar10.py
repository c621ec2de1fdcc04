"""Class-conditional CIFAR-10 at 32 px.

  python train.py --config=configs/class_cifar10.py --workdir=DIR \
    --config.data.path=CIFAR10 --config.first_stage_from=FIRST
  python train.py --config=configs/class_cifar10.py:tiny --workdir=DIR

CIFAR10 is a folder with train/CLASS/*.png and test/CLASS/*.png; FIRST is a run
of configs/first_stage/cifar10_kl.py.
"""

from configs import common
from configs.first_stage import cifar10_kl


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=cifar10_kl.get_model(),
    # The last row is the null class of guidance.
    task=dict(name='class_label', num_classes=11, width=256),
    null_prob=0.1,
    unet=dict(
      channels=128,
      multipliers=(1, 2, 2),
      attention_levels=(1, 2),
      head_width=32,
      attention='cross',
      dropout=0.1,
    ),
    data=dict(size=32, flip=True, eval_split='test', num_workers=0),
    optim=dict(learning_rate=2e-4, warmup_steps=500, clip_norm=1.0),
    batch_size=128,
    num_steps=50_000,
    sampling=dict(num=40, guidance=1.5),
  )
  config.ema_decay = 0.999
  config.show_every, config.save_every = 1_000, 2_000
  return common.select(config, variant)
