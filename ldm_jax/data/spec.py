"""What `config.data` says: where images come from, how they become squares."""

import dataclasses

from ldm_jax.data import images
from ldm_jax.types import UserError

# Fields that came after latents and statistics had been kept, and what they
# were before.
_YOUNG = {'resize': 0, 'min_crop': 1.0}


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
    crop: 'center' or 'random' (training only): along the longer side, and along
      both where the crop is smaller than the image.
    resize: pixels of the image's shorter side, of which the crop is `size`. 0
      is `size`, so that all of the shorter side is seen; -1 is as stored.
    min_crop: a random crop takes a share of the shorter side between this and 1
      (training only), and becomes `size` however small it is.
    flip: whether half of the training images are mirrored. Captions are not:
      leave it off where they say left and right.
    resample: 'lanczos' or 'bicubic', antialiased.
    upscale: whether images smaller than `resize` (or `size`) are enlarged, as
      the release does; otherwise they count as bad images.
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
  resize: int = 0
  min_crop: float = 1.0
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
    self._check_crop()

  def _check_crop(self) -> None:
    if self.resize not in (0, -1) and self.resize < self.size:
      raise UserError(
        f'data.resize={self.resize}; it must be 0 (as data.size), -1 (as'
        f' stored), or data.size={self.size} or more.'
      )
    if not 0 < self.min_crop <= 1:
      raise UserError(
        f'data.min_crop={self.min_crop}; it is a share: above 0, 1 at most.'
      )
    if self.min_crop < 1 and (self.crop != 'random' or self.resize):
      raise UserError(
        f'data.min_crop={self.min_crop} is of random crops of the whole shorter'
        f" side: it needs data.crop='random' and data.resize=0, and these are"
        f' {self.crop!r} and {self.resize}.'
      )

  @property
  def needed(self) -> int:
    """Pixels that the shorter side of an image must have, or be enlarged to."""
    return max(self.size, self.resize)

  def centred(self) -> 'DataSpec':
    """As evaluation sees images: from the middle, all of it, not mirrored."""
    return dataclasses.replace(self, crop='center', min_crop=1.0, flip=False)

  def told(self, free: tuple[str, ...]) -> dict:
    """The fields but the `free` ones, by which what is kept on disk is known.

    Fields that are younger than such folders are told where they are set.
    """
    fields = dataclasses.asdict(self)
    return {
      key: value
      for key, value in fields.items()
      if key not in free and _YOUNG.get(key) != value
    }


def _check_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
  if value not in allowed:
    raise UserError(
      f'data.{name}={value!r}; it must be one of {", ".join(allowed)}.'
    )
