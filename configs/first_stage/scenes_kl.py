"""The quickstart's first stage: KL, f = 4, c = 4, on drawn 32 px scenes.

  python train.py --config=configs/first_stage/scenes_kl.py --workdir=DIR
  python train.py --config=configs/first_stage/scenes_kl.py:tiny --workdir=DIR

A CPU of two cores is enough. Expect PSNR >= 26 dB on held-out scenes.
"""

from configs import common


def get_model():
  return common.autoencoder(
    'kl',
    z_channels=4,
    embed_dim=4,
    channels=32,
    multipliers=(1, 2, 2),
    num_res_blocks=1,
    mid_attention=False,
  )


def get_config(variant: str = ''):
  config = common.first_stage(
    get_model(),
    # Pixels alone. The KL term is strong for a latent diffusion model: it keeps
    # the background's finest texture, which nothing tells, out of the latents.
    loss=dict(perceptual_weight=0.0, disc_weight=0.0, kl_weight=0.004),
    data=common.scenes(),
    optim=dict(
      learning_rate=2e-3,
      scale_lr=False,
      schedule='cosine',
      warmup_steps=50,
      b1=0.9,
      b2=0.999,
      clip_norm=1.0,
    ),
    batch_size=16,
    num_steps=800,
  )
  config.dtype = 'float32'
  config.log_every, config.show_every, config.save_every = 100, 400, 400
  return common.select(config, variant)
