"""First stage f = 4, |Z| = 8192, no attention, c = 3: a row of Table 8.

  python train.py --config=configs/first_stage/vq_f4_noattn.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/vq_f4_noattn.py:tiny \
    --workdir=DIR

OpenImages to ImageNet-Val: R-FID 1.06, R-IS 221.94, PSNR 25.21, PSIM 0.72,
SSIM 0.76.
Released as vq-f4-noattn: 53.22M parameters, and these losses at batch 8, on
crops of images as they are stored. The number of steps is not told; 500k is
ours.

Without attention, so that large images fit: used for inpainting.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'vq',
    z_channels=3,
    embed_dim=3,
    num_codes=8192,
    multipliers=(1, 2, 4),
    mid_attention=False,
  )


def get_config(variant: str = ''):
  config = common.first_stage(
    get_model(),
    loss=dict(
      disc_weight=0.75,
      disc_start=11,
    ),
    data=dict(resize=-1),
    batch_size=8,
  )
  return common.select(config, variant)
