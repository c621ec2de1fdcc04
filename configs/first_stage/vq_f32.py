"""First stage f = 32, |Z| = 16384, c = 16: a row of Table 8.

  python train.py --config=configs/first_stage/vq_f32.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/vq_f32.py:tiny --workdir=DIR

OpenImages to ImageNet-Val: R-FID 31.83, R-IS 40.40, PSNR 17.45, PSIM 2.58,
SSIM 0.41.
Not released. What the table leaves open is as in vq_f16 and kl_f32.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'vq',
    z_channels=16,
    embed_dim=16,
    num_codes=16_384,
    multipliers=(1, 1, 2, 2, 4, 4),
    attention_levels=(4, 5),
  )


def get_config(variant: str = ''):
  config = common.first_stage(
    get_model(),
    loss=dict(
      disc_weight=0.75,
      disc_start=250_001,
      disc_layers=2,
    ),
    data=dict(resize=384),
    batch_size=14,
  )
  return common.select(config, variant)
