"""Text to image on LAION-400M at 256, LDM-8, 1.45B: Tables 15 and 17.

  python train.py --config=configs/text_laion.py --workdir=DIR \
    --config.first_stage_from=RUNS/kl_f8 --config.data.path=IMAGES \
    --config.task.vocab_file=BERT
  python train.py --config=configs/text_laion.py:tiny --workdir=DIR

MS-COCO, 250 DDIM steps: FID 23.31, IS 20.03; guidance 1.5: FID 12.63, IS 30.29
(Table 2). U-Net 872.30M, encoder 542.90M. The released model is this one.
IMAGES holds metadata.jsonl with captions; BERT is bert-base-uncased's
vocab.txt. The share of dropped captions is not told; 0.1 is ours.
"""

from configs import common
from configs.first_stage import kl_f8


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=kl_f8.get_model(),
    task=dict(name='text', width=1280, depth=32),
    null_prob=0.1,
    unet=dict(
      channels=320,
      multipliers=(1, 2, 4, 4),
      attention_levels=(0, 1, 2),
      num_heads=8,
      attention='cross',
      remat=True,
    ),
    schedule=dict(start=0.00085, end=0.012),
    scale_factor=0.18215,
    optim=dict(learning_rate=1e-4),
    batch_size=680,
    num_steps=390_000,
    sampling=dict(guidance=5.0),
  )
  return common.select(config, variant)
