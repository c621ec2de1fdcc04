"""First stage f = 32, KL, c = 16: a row of Table 8.

  python train.py --config=configs/first_stage/kl_f32_c16.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/kl_f32_c16.py:tiny --workdir=DIR

OpenImages to ImageNet-Val: R-FID 7.3, R-IS 132.75, PSNR 20.38, PSIM 1.88, SSIM
0.53.
Not released. What the table leaves open is as in kl_f32.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'kl',
    z_channels=16,
    embed_dim=16,
    multipliers=(1, 1, 2, 2, 4, 4),
    attention_levels=(4, 5),
  )


def get_config(variant: str = ''):
  config = common.first_stage(get_model(), data=dict(resize=384), batch_size=6)
  return common.select(config, variant)
