"""First stage f = 32, |Z| = 16384, c = 32: of LDM-32 in Tables 13 and 14.

  python train.py --config=configs/first_stage/vq_f32_c32.py --workdir=DIR \
    --config.data.path=IMAGES --config.loss.lpips_path=WEIGHTS
  python train.py --config=configs/first_stage/vq_f32_c32.py:tiny --workdir=DIR

No figures are printed. Those tables give latents of 8 x 8 x 32, and only so do
their parameter counts come out; Table 8 has c = 16 in its row (vq_f32). The
rest is as there.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'vq',
    z_channels=32,
    embed_dim=32,
    num_codes=16_384,
    multipliers=(1, 1, 2, 2, 4, 4),
    attention_levels=(4, 5),
  )


def get_config(variant: str = ''):
  config = common.first_stage(
    get_model(),
    loss=dict(disc_weight=0.75, disc_start=250_001, disc_layers=2),
    data=dict(resize=384),
    batch_size=14,
  )
  return common.select(config, variant)
