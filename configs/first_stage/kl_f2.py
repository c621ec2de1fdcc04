"""First stage f = 2, KL, c = 2: a row of Table 8.

  python train.py --config=configs/first_stage/kl_f2.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/kl_f2.py:tiny --workdir=DIR

OpenImages to ImageNet-Val: R-FID 0.086, R-IS 232.66, PSNR 32.47, PSIM 0.20,
SSIM 0.93.
Not released. What the table leaves open is as in kl_f4.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'kl',
    z_channels=2,
    embed_dim=2,
    multipliers=(1, 2),
  )


def get_config(variant: str = ''):
  config = common.first_stage(get_model(), data=dict(resize=384), batch_size=4)
  return common.select(config, variant)
