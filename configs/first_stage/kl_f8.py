"""First stage f = 8, KL, c = 4: a row of Table 8.

  python train.py --config=configs/first_stage/kl_f8.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/kl_f8.py:tiny --workdir=DIR

OpenImages to ImageNet-Val: R-FID 0.90, R-IS 209.90, PSNR 24.19, PSIM 1.02,
SSIM 0.69.
Released as kl-f8: 83.65M parameters, and these losses at batch 4, on crops of
images whose shorter side is 384. The number of steps is not told; 500k is ours.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'kl',
    z_channels=4,
    embed_dim=4,
    multipliers=(1, 2, 4, 4),
  )


def get_config(variant: str = ''):
  config = common.first_stage(get_model(), data=dict(resize=384), batch_size=4)
  return common.select(config, variant)
