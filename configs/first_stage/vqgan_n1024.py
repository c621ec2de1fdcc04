"""First stage of Esser et al. 2021, f = 16, |Z| = 1024, c = 256: Table 8.

  python train.py --config=configs/first_stage/vqgan_n1024.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/vqgan_n1024.py:tiny --workdir=DIR

ImageNet-Val: R-FID 7.94, PSNR 19.4, PSIM 1.98, SSIM 0.50.
What the table compares with: VQGAN, trained on ImageNet. Losses as in its
training config.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'vq',
    z_channels=256,
    embed_dim=256,
    num_codes=1024,
    multipliers=(1, 1, 2, 2, 4),
    attention_levels=(4,),
  )


def get_config(variant: str = ''):
  config = common.first_stage(
    get_model(),
    loss=dict(disc_weight=0.8, disc_start=250_001),
    batch_size=12,
  )
  return common.select(config, variant)
