"""No first stage, f = 1: diffusion in pixels, the paper's LDM-1.

  python train.py --config=configs/class_imagenet_f1.py --workdir=DIR

There is nothing to train, and `first_stage_from` stays unset.
"""


def get_model():
  return dict(name='identity', channels=3)


def get_config(variant: str = ''):
  del variant
  raise ValueError(
    'The identity has nothing to train; use it as a first stage.'
  )
