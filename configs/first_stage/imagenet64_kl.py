"""A KL first stage for folders of photographs: f = 4, c = 4, 64 px.

  python train.py --config=configs/first_stage/imagenet64_kl.py --workdir=DIR \
    --config.data.path=IMAGES
  python train.py --config=configs/first_stage/imagenet64_kl.py:tiny \
    --workdir=DIR

A twentieth of IMAGES is held out to measure PSNR. With VGG-16 and LPIPS weights
at hand, add --config.loss.perceptual_weight=1 --config.loss.lpips_path=WEIGHTS.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'kl',
    z_channels=4,
    embed_dim=4,
    channels=64,
    multipliers=(1, 2, 4),
    mid_attention=False,
  )


def get_config(variant: str = ''):
  config = common.first_stage(
    get_model(),
    loss=dict(perceptual_weight=0.0, disc_weight=0.0),
    data=dict(size=64, holdout=0.05),
    optim=dict(
      learning_rate=5e-4,
      scale_lr=False,
      schedule='cosine',
      warmup_steps=100,
      b2=0.999,
    ),
    batch_size=64,
    num_steps=20_000,
  )
  config.show_every, config.save_every = 1_000, 2_000
  return common.select(config, variant)
