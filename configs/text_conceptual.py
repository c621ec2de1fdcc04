"""Text to image at 256, LDM-4: released as text2img256, not in the paper.

  python train.py --config=configs/text_conceptual.py --workdir=DIR \
    --config.first_stage_from=RUNS/vq_f4 --config.data.path=IMAGES \
    --config.task.vocab_file=BERT
  python train.py --config=configs/text_conceptual.py:tiny --workdir=DIR

No figures are printed. U-Net 403.62M, encoder 166.59M. IMAGES holds
metadata.jsonl with captions; BERT is bert-base-uncased's vocab.txt. The number
of steps is not told; 500k is ours.
"""

from configs import common
from configs.first_stage import vq_f4


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=vq_f4.get_model(),
    task=dict(name='text', width=640, depth=32),
    unet=dict(
      channels=192,
      multipliers=(1, 2, 3, 5),
      attention_levels=(1, 2, 3),
      head_width=32,
      attention='cross',
    ),
    scale_factor=1.0,
    optim=dict(learning_rate=2e-6, scale_lr=True),
    batch_size=28,
    num_steps=500_000,
  )
  return common.select(config, variant)
