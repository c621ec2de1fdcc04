"""What `config.data` says: where images come from, how they become squares."""

import dataclasses

from ldm_jax.data import images
from ldm_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """The fields of a config's `data` section.

  Attributes:
    source: 'scenes', 'folder', 'coco', 'openimages', 'pairs' (of images and
      maps of classes), 'masks' (pairs of images and masks) or 'tfds:NAME'.
    size: side of the images in pixels, after crop and resize.
    path: the folder of a source of files.
    train_split, eval_split: names of the splits.
    tfds_data_dir: where TFDS prepared its datasets; '' is TFDS's default.
    crop: 'center' or 'random' along the longer side (training only).
    flip: whether half of the training images are mirrored. Captions are not:
      leave it off where they say left and right.
    resample: 'lanczos' or 'bicubic', antialiased.
    upscale: whether images smaller than `size` are enlarged, as the release
      does; otherwise they count as bad images.
    num_workers: processes that decode; 0 uses threads alone.
    num_examples: of the training split of `scenes`; 0 is its default.
    max_objects: of `scenes`.
    holdout: share kept for evaluation of a folder without split folders.
    max_bad: share of bad images above which a run stops.
  """

  source: str
  size: int
  path: str = ''
  train_split: str = 'train'
  eval_split: str = 'validation'
  tfds_data_dir: str = ''
  crop: str = 'center'
  flip: bool = False
  resample: str = 'lanczos'
  upscale: bool = False
  num_workers: int = 0
  num_examples: int = 0
  max_objects: int = 1
  holdout: float = 0.0
  max_bad: float = 0.01

  def __post_init__(self):
    _check_one_of('crop', self.crop, ('center', 'random'))
    _check_one_of('resample', self.resample, tuple(images.RESAMPLE))
    for name, lowest in (('size', 1), ('num_workers', 0), ('num_examples', 0)):
      value = getattr(self, name)
      if value < lowest:
        raise UserError(f'data.{name}={value}; it must be {lowest} or more.')
    for name in ('holdout', 'max_bad'):
      share = getattr(self, name)
      if not 0 <= share < 1:
        raise UserError(
          f'data.{name}={share}; it is a share: at least 0, below 1.'
        )


def _check_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
  if value not in allowed:
    raise UserError(
      f'data.{name}={value!r}; it must be one of {", ".join(allowed)}.'
    )
