"""First stage f = 8, |Z| = 256, c = 4: a row of Table 8.

  python train.py --config=configs/first_stage/vq_f8_n256.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/vq_f8_n256.py:tiny --workdir=DIR

OpenImages to ImageNet-Val: R-FID 1.49, R-IS 194.20, PSNR 22.35, PSIM 1.26,
SSIM 0.62.
Released as vq-f8-n256: 67.65M parameters, and these losses at batch 10, on
crops of images whose shorter side is 384. The number of steps is not told; 500k
is ours.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'vq',
    z_channels=4,
    embed_dim=4,
    num_codes=256,
    multipliers=(1, 2, 2, 4),
    attention_levels=(3,),
  )


def get_config(variant: str = ''):
  config = common.first_stage(
    get_model(),
    loss=dict(
      disc_weight=0.75,
      disc_start=250_001,
    ),
    data=dict(resize=384),
    batch_size=10,
  )
  return common.select(config, variant)
