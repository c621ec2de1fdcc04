"""First stage f = 16, KL, c = 16: a row of Table 8.

  python train.py --config=configs/first_stage/kl_f16.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/kl_f16.py:tiny --workdir=DIR

OpenImages to ImageNet-Val: R-FID 0.87, R-IS 210.31, PSNR 24.08, PSIM 1.07,
SSIM 0.68.
Released as kl-f16: 69.61M parameters, and these losses at batch 6, on crops of
images whose shorter side is 384. The number of steps is not told; 500k is ours.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'kl',
    z_channels=16,
    embed_dim=16,
    multipliers=(1, 1, 2, 2, 4),
    attention_levels=(4,),
  )


def get_config(variant: str = ''):
  config = common.first_stage(get_model(), data=dict(resize=384), batch_size=6)
  return common.select(config, variant)
