"""First stage f = 16, |Z| = 16384, c = 8: a row of Table 8.

  python train.py --config=configs/first_stage/vq_f16.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/vq_f16.py:tiny --workdir=DIR

OpenImages to ImageNet-Val: R-FID 5.15, R-IS 144.55, PSNR 20.83, PSIM 1.73,
SSIM 0.54.
Released as vq-f16: 69.59M parameters, and these losses at batch 14, on crops of
images whose shorter side is 384. The number of steps is not told; 500k is ours.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'vq',
    z_channels=8,
    embed_dim=8,
    num_codes=16_384,
    multipliers=(1, 1, 2, 2, 4),
    attention_levels=(4,),
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
