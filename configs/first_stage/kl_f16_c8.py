"""First stage f = 16, KL, c = 8: a row of Table 8.

  python train.py --config=configs/first_stage/kl_f16_c8.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/kl_f16_c8.py:tiny --workdir=DIR

OpenImages to ImageNet-Val: R-FID 2.63, R-IS 178.68, PSNR 21.94, PSIM 1.49,
SSIM 0.59.
Not released. What the table leaves open is as in kl_f16.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'kl',
    z_channels=8,
    embed_dim=8,
    multipliers=(1, 1, 2, 2, 4),
    attention_levels=(4,),
  )


def get_config(variant: str = ''):
  config = common.first_stage(get_model(), data=dict(resize=384), batch_size=6)
  return common.select(config, variant)
