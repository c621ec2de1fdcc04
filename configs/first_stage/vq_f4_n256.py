"""First stage f = 4, |Z| = 256, c = 3: a row of Table 8.

  python train.py --config=configs/first_stage/vq_f4_n256.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/vq_f4_n256.py:tiny --workdir=DIR

OpenImages to ImageNet-Val: R-FID 0.47, R-IS 223.81, PSNR 26.43, PSIM 0.62,
SSIM 0.80.
Not released. What the table leaves open is as in vq_f4 and vq_f8_n256, the
crops as in the latter.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'vq',
    z_channels=3,
    embed_dim=3,
    num_codes=256,
    multipliers=(1, 2, 4),
  )


def get_config(variant: str = ''):
  config = common.first_stage(
    get_model(),
    loss=dict(
      disc_weight=0.75,
      disc_start=250_001,
    ),
    data=dict(resize=384),
    batch_size=8,
  )
  return common.select(config, variant)
