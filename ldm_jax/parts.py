"""What a run is made of, without its weights; build.py makes it of a config."""

import dataclasses
from typing import Any

import flax.linen as nn
import numpy as np

from ldm_jax.data.spec import DataSpec
from ldm_jax.diffusion import windows
from ldm_jax.diffusion.loss import LossSpec as DiffusionLossSpec
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.diffusion.settings import Settings
from ldm_jax.first_stage.codec import CachedCodec, Codec
from ldm_jax.first_stage.losses import LossSpec as FirstStageLossSpec
from ldm_jax.models.classifier import NoisyClassifier
from ldm_jax.models.latent_diffusion import LatentDiffusion
from ldm_jax.training.guard import GuardSpec
from ldm_jax.training.optim import OptimSpec
from ldm_jax.training.profile import ProfileSpec
from ldm_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class TopLevel:
  """The keys of a config, and its sections; see configs/common.py."""

  stage: str
  num_steps: int
  batch_size: int
  data: dict
  first_stage: dict
  loss: dict
  optim: dict
  seed: int = 0
  grad_accum: int = 1
  dtype: str = 'float32'
  log_every: int = 100
  show_every: int = 5_000
  eval_every: int = 0  # 0: never
  eval_num: int = 256  # images of each of these evaluations
  save_every: int = 5_000
  keep_checkpoints: int = 3  # the newest
  keep_every: int = 0  # and, for good, multiples of so many steps; 0: none
  mesh: dict = dataclasses.field(default_factory=dict)
  guard: dict = dataclasses.field(default_factory=dict)
  profile: dict = dataclasses.field(default_factory=dict)
  init_from: str = ''  # workdir whose weights a new run starts from
  latent_cache: str = ''  # folder: images are encoded once, and read from there
  # Of the diffusion stage:
  first_stage_from: str = ''
  scale_factor: float = 0.0  # 0: estimated over scale_batches batches
  scale_batches: int = 8
  task: dict = dataclasses.field(default_factory=dict)
  null_prob: float | None = None  # None: 0, or a release that does not say
  unet: dict = dataclasses.field(default_factory=dict)
  schedule: dict = dataclasses.field(default_factory=dict)
  ema_decay: float = 0.9999
  sampling: dict = dataclasses.field(default_factory=dict)
  # Of the classifier stage, which has a schedule and a first stage too:
  classifier: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SamplingSpec(Settings):
  """The fixed-seed samples drawn while training: so many, and how."""

  num: int = 8


@dataclasses.dataclass(frozen=True)
class MeshSpec:
  """Devices along each axis; -1: what the other leaves."""

  data: int = -1
  fsdp: int = 1


@dataclasses.dataclass(frozen=True)
class Parts:
  """A run without its weights. What a stage does not have is None."""

  config: TopLevel
  data: DataSpec
  first_stage: nn.Module
  prepare: Any
  mesh: MeshSpec
  loss: FirstStageLossSpec | DiffusionLossSpec | None
  optim: OptimSpec
  guard: GuardSpec
  profile: ProfileSpec
  model: LatentDiffusion | None = None
  schedule: Schedule | None = None
  sampling: SamplingSpec | None = None
  classifier: NoisyClassifier | None = None

  @property
  def on_latents(self) -> bool:
    """Whether what is trained sees latents of a frozen first stage."""
    return self.config.stage != 'first_stage'

  @property
  def codec(self) -> Codec:
    return Codec(self.first_stage)

  @property
  def train_codec(self) -> Codec:
    """What turns a training batch's `image` into latents."""
    return CachedCodec(self.first_stage) if self.cached else self.codec

  @property
  def cached(self) -> bool:
    return bool(self.config.latent_cache)

  @property
  def cached_shape(self) -> tuple[int, int, int]:
    """Of a training batch's `image` with a latent cache."""
    return *self.latent_shape[:2], CachedCodec(self.first_stage).channels

  @property
  def latent_shape(self) -> tuple[int, int, int]:
    """(h, w, c) of a training image's latent."""
    return self.latent_shape_of(self.data.size, self.data.size)

  def latent_shape_of(self, height: int, width: int) -> tuple[int, int, int]:
    f = self.first_stage.downsampling
    if height % f or width % f:
      raise UserError(
        f"size {height}x{width} does not divide by the first stage's f={f}; "
        f'{self._nearest(height, width)}.'
      )
    return height // f, width // f, self.first_stage.latent_channels

  @property
  def latent_multiple(self) -> int:
    """What the U-Net's levels divide a latent's sides by."""
    if self.model is None:
      return 1
    return 2 ** (len(self.model.unet.multipliers) - 1)

  def sampled_shape(self, height: int, width: int) -> tuple[int, int, int]:
    """(h, w, c) of an image's latent that the U-Net can take; UserError."""
    h, w, c = self.latent_shape_of(height, width)
    self.check_latent(h, w)
    return h, w, c

  def check_latent(self, h: int, w: int) -> None:
    """Raises UserError for a latent that does not halve as the U-Net does."""
    if h % self.latent_multiple or w % self.latent_multiple:
      f = self.first_stage.downsampling
      raise UserError(
        f'size {h * f}x{w * f}: its latent of {h}x{w} does not halve as the '
        f"U-Net's levels do; {self._nearest(h * f, w * f)}."
      )

  def _nearest(self, height: int, width: int) -> str:
    """The sizes around this one that can be drawn, in words."""
    unit = self.first_stage.downsampling * self.latent_multiple
    below = [max(side // unit, 1) * unit for side in (height, width)]
    above = [-(-side // unit) * unit for side in (height, width)]
    sizes = sorted({tuple(below), tuple(above)})
    sizes = ' or '.join(f'{h}x{w}' for h, w in sizes)
    return (
      f'take multiples of {unit} pixels, such as {sizes} (--size; of a config, '
      'data.size)'
    )

  def window(self, size: int | None, overlap: int | None):
    """(size, overlap) in latents of windows given in pixels; UserError."""
    if size is None:
      return None
    f = self.first_stage.downsampling
    return windows.in_latents(size, overlap, f, self.latent_multiple)

  def check_draws(self) -> None:
    """Raises UserError where there is no diffusion model to draw with."""
    if self.classifier is not None:
      raise UserError(
        'This workdir holds a classifier: give it to sample.py as --classifier '
        'and the run that it is to guide as --workdir.'
      )
    if self.model is None:
      raise UserError(
        'This workdir holds a first stage alone: it can encode and decode. '
        'Train a diffusion model on it with '
        '--config.first_stage_from=<this workdir>.'
      )

  def check_guidance(self, guidance: float) -> None:
    """Raises UserError where there is no condition that could guide."""
    if guidance != 1 and not self.prepare.blank(self.data.size):
      raise UserError(
        f'guidance={guidance}: task {self.config.task["name"]!r} has no '
        'condition to guide by; leave guidance at 1.'
      )

  def check_null(self, wanted: str) -> None:
    """Raises UserError where a class would be taken for the null.

    Args:
      wanted: what needs the null, in words.
    """
    if not self.has_null:
      raise UserError(
        f'{wanted}: this run has no null to guide by. All '
        f'{self.prepare.num_classes} of its task.num_classes are classes '
        '(task.null_label is False, or unset with null_prob=0). Leave guidance '
        'at 1, or guide by a classifier (docs/guidance.md).'
      )

  @property
  def has_null(self) -> bool:
    """Whether a condition can be dropped: a table of classes may lack that."""
    return getattr(self.prepare, 'has_null', True)

  def blank_batch(self, size: int) -> dict[str, np.ndarray]:
    """A batch of zeros in the shapes of training."""
    side = self.data.size
    shape = self.cached_shape if self.cached else (side, side, 3)
    blank = {
      'image': np.zeros(shape, np.float32),
      **self.prepare.blank(side),
    }
    return {k: np.stack([v] * size) for k, v in blank.items()}
