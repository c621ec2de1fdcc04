"""Inpainting on Places at 256, LDM-4 without attention: Tables 7 and 15.

  python train.py --config=configs/inpainting_places.py --workdir=DIR \
    --config.first_stage_from=RUNS/vq_f4_noattn
  python train.py --config=configs/inpainting_places.py:tiny --workdir=DIR

LaMa protocol, 30k crops of 512: FID 2.37, LPIPS 0.145 (Table 7). U-Net
215.23M; only its middle block attends. Table 15 prints the rate 1e-6; it is
taken as the release's rate per image, 1.28e-4 for the batch. Loss and noise
schedule are those of the big model.
"""

from configs import common
from configs.first_stage import vq_f4_noattn


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=vq_f4_noattn.get_model(),
    task=dict(name='inpainting', masks='lama_256'),
    unet=dict(
      channels=128,
      multipliers=(1, 4, 8),
      attention_levels=(),
      num_heads=1,
    ),
    schedule=dict(end=0.0205),
    loss=dict(kind='l1'),
    scale_factor=1.0,
    data=dict(
      source='tfds:placesfull',
      crop='random',
      train_split='train[:99%]',
      eval_split='train[99%:]',
    ),
    optim=dict(learning_rate=1e-6, scale_lr=True),
    batch_size=128,
    num_steps=360_000,
  )
  return common.select(config, variant)
