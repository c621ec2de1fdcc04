"""First stage f = 8, |Z| = 16384, c = 4: a row of Table 8.

  python train.py --config=configs/first_stage/vq_f8.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/vq_f8.py:tiny --workdir=DIR

OpenImages to ImageNet-Val: R-FID 1.14, R-IS 201.92, PSNR 23.07, PSIM 1.17,
SSIM 0.65. 66 V100-days (Table 18).
Released as vq-f8: 67.72M parameters, and these losses at batch 10, on crops of
images whose shorter side is 384. The number of steps is not told; 500k is ours.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'vq',
    z_channels=4,
    embed_dim=4,
    num_codes=16_384,
    multipliers=(1, 2, 2, 4),
    attention_levels=(3,),
  )


def get_config(variant: str = ''):
  config = common.first_stage(
    get_model(),
    loss=dict(
      disc_weight=0.6,
      disc_start=1,
      disc_layers=2,
    ),
    data=dict(resize=384),
    batch_size=10,
  )
  return common.select(config, variant)
