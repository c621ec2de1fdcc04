"""A KL first stage for CIFAR-10: f = 2, c = 4, 32 px.

  python train.py --config=configs/first_stage/cifar10_kl.py --workdir=DIR \
    --config.data.path=CIFAR10
  python train.py --config=configs/first_stage/cifar10_kl.py:tiny --workdir=DIR

CIFAR10 is a folder with train/CLASS/*.png and test/CLASS/*.png.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'kl',
    z_channels=4,
    embed_dim=4,
    channels=64,
    multipliers=(1, 2),
    mid_attention=False,
  )


def get_config(variant: str = ''):
  config = common.first_stage(
    get_model(),
    loss=dict(perceptual_weight=0.0, disc_weight=0.0),
    data=dict(size=32, crop='center', eval_split='test', num_workers=0),
    optim=dict(
      learning_rate=1e-3,
      scale_lr=False,
      schedule='cosine',
      warmup_steps=100,
      b2=0.999,
    ),
    batch_size=128,
    num_steps=5_000,
  )
  config.show_every, config.save_every = 500, 1_000
  return common.select(config, variant)
