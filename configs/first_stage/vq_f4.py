"""First stage f = 4, |Z| = 8192, c = 3: a row of Table 8.

  python train.py --config=configs/first_stage/vq_f4.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/vq_f4.py:tiny --workdir=DIR

OpenImages to ImageNet-Val: R-FID 0.58, R-IS 224.78, PSNR 27.43, PSIM 0.53,
SSIM 0.82. 29 V100-days (Table 18).
Released as vq-f4: 55.32M parameters, and these losses at batch 8, on crops of
images as they are stored. The number of steps is not told; 500k is ours.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'vq',
    z_channels=3,
    embed_dim=3,
    num_codes=8192,
    multipliers=(1, 2, 4),
  )


def get_config(variant: str = ''):
  config = common.first_stage(
    get_model(),
    loss=dict(
      disc_weight=0.75,
      disc_start=0,
    ),
    data=dict(resize=-1),
    batch_size=8,
  )
  return common.select(config, variant)
