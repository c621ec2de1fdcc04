"""First stage f = 32, KL, c = 64: a row of Table 8.

  python train.py --config=configs/first_stage/kl_f32.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/kl_f32.py:tiny --workdir=DIR

OpenImages to ImageNet-Val: R-FID 2.04, R-IS 189.53, PSNR 22.27, PSIM 1.41,
SSIM 0.61.
Released as kl-f32: 103.88M parameters, and these losses at batch 6, on crops of
images whose shorter side is 384. The number of steps is not told; 500k is ours.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'kl',
    z_channels=64,
    embed_dim=64,
    multipliers=(1, 1, 2, 2, 4, 4),
    attention_levels=(4, 5),
  )


def get_config(variant: str = ''):
  config = common.first_stage(get_model(), data=dict(resize=384), batch_size=6)
  return common.select(config, variant)
