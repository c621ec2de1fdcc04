"""First stage f = 4, KL, c = 3: a row of Table 8.

  python train.py --config=configs/first_stage/kl_f4.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/kl_f4.py:tiny --workdir=DIR

OpenImages to ImageNet-Val: R-FID 0.27, R-IS 227.57, PSNR 27.53, PSIM 0.55,
SSIM 0.82.
Released as kl-f4: 55.31M parameters, and these losses at batch 10, on crops of
images whose shorter side is 384. The number of steps is not told; 500k is ours.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'kl',
    z_channels=3,
    embed_dim=3,
    multipliers=(1, 2, 4),
  )


def get_config(variant: str = ''):
  config = common.first_stage(get_model(), data=dict(resize=384), batch_size=10)
  return common.select(config, variant)
