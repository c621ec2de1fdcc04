"""First stage f = 2, |Z| = 2048, c = 2: a row of Table 8.

  python train.py --config=configs/first_stage/vq_f2.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/vq_f2.py:tiny --workdir=DIR

OpenImages to ImageNet-Val: R-FID 0.16, R-IS 232.75, PSNR 30.85, PSIM 0.27,
SSIM 0.91.
Not released. What the table leaves open is as in vq_f8_n256.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'vq',
    z_channels=2,
    embed_dim=2,
    num_codes=2048,
    multipliers=(1, 2),
  )


def get_config(variant: str = ''):
  config = common.first_stage(
    get_model(),
    loss=dict(
      disc_weight=0.75,
      disc_start=250_001,
    ),
    data=dict(resize=384),
    batch_size=4,
  )
  return common.select(config, variant)
