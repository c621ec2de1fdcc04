"""Inpainting on Places at 256, LDM-4, big: Table 7; inpainting_big.

  python train.py --config=configs/inpainting_places_big.py --workdir=DIR \
    --config.first_stage_from=RUNS/vq_f4_noattn
  python train.py --config=configs/inpainting_places_big.py:tiny --workdir=DIR

LaMa protocol, 30k crops of 512: FID 2.40, LPIPS 0.142, after half an epoch
more at 512 pixels FID 1.50, LPIPS 0.137 (Table 7). U-Net 387.25M. The released
model is this one; its rate peaks at a tenth of 1e-6 per image, falls to a
thousandth of that until step 50k, and stays there. Batch and steps are not
told; they are those of inpainting_places.
"""

from configs import common
from configs.first_stage import vq_f4_noattn


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=vq_f4_noattn.get_model(),
    task=dict(name='inpainting', masks='lama_256'),
    unet=dict(
      channels=256,
      multipliers=(1, 2, 3, 4),
      attention_levels=(1, 2, 3),
      num_heads=8,
      resblock_updown=True,
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
    optim=dict(
      learning_rate=1e-7,
      scale_lr=True,
      schedule='cosine',
      warmup_steps=1000,
      decay_steps=50_000,
      final_fraction=0.001,
    ),
    batch_size=128,
    num_steps=360_000,
  )
  return common.select(config, variant)
