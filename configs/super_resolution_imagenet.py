"""Super-resolution x4 to ImageNet 256, LDM-4: Table 15.

  python train.py --config=configs/super_resolution_imagenet.py --workdir=DIR \
    --config.first_stage_from=RUNS/vq_f4
  python train.py --config=configs/super_resolution_imagenet.py:tiny \
    --workdir=DIR

100 DDIM steps: FID 2.8 to the validation split, 4.8 to the training split, IS
166.3, PSNR 24.4, SSIM 0.69 (Table 5). Images under 256 pixels are left out.
U-Net 113.62M, with the first stage the 169M of Table 15. That table prints no
attention (":printed", 105.41M). ":released" is bsr_sr: heads of width 32, the
light BSR degradation, trained on OpenImages, on crops of half of the shorter
side or more.
"""

from configs import common
from configs.first_stage import vq_f4


def get_config(variant: str = ''):
  config = common.diffusion(
    first_stage=vq_f4.get_model(),
    task=dict(name='super_resolution', factor=4, degradation='bicubic'),
    unet=dict(
      channels=160,
      multipliers=(1, 2, 2, 4),
      attention_levels=(3,),
      num_heads=1,
    ),
    schedule=dict(end=0.0155),
    scale_factor=1.0,
    data=dict(
      source='tfds:imagenet2012', crop='random', upscale=False, max_bad=0.5
    ),
    optim=dict(learning_rate=6.4e-5),
    batch_size=64,
    num_steps=860_000,
  )
  return common.select(
    config,
    variant,
    printed=dict(unet=dict(attention_levels=())),
    released=dict(
      task=dict(degradation='bsr_light'),
      unet=dict(head_width=32, num_heads=None),
      data=dict(source='folder', min_crop=0.5),
    ),
  )
