"""Classifier of noisy latents of scenes: a colour and a shape, 40 classes.

  python train.py --config=configs/classifier_scenes.py --workdir=DIR \
    --config.first_stage_from=RUN
  python train.py --config=configs/classifier_scenes.py:tiny --workdir=DIR

RUN is the diffusion run that it is to guide, such as one of
configs/unconditional_scenes.py; then

  python sample.py --workdir=RUN --out=OUT --classifier=DIR --label=7 \
    --classifier_scale=3

docs/guidance.md says what to expect.
"""

from configs import common, text_scenes


def get_config(variant: str = ''):
  guided = text_scenes.base()
  config = common.classifier(
    first_stage=guided.first_stage.to_dict(),
    classifier=dict(
      num_classes=40,
      channels=64,
      multipliers=(1, 2),
      attention_levels=(0, 1),
      num_res_blocks=1,
      head_width=16,
      dropout=0.1,
    ),
    schedule=guided.schedule.to_dict(),
    data=common.scenes(),
    optim=dict(
      learning_rate=1e-3,
      schedule='cosine',
      warmup_steps=100,
      weight_decay=0.05,
      clip_norm=1.0,
    ),
    batch_size=64,
    num_steps=3000,
  )
  config.dtype = 'float32'
  config.log_every, config.show_every, config.save_every = 100, 1000, 1000
  return common.select(config, variant)
