"""Guides for `sample`: towards a class, or towards an image (App. C).

guide = guides.to_class(ldm, 'runs/classifier', label=7, scale=3.0)
guide = guides.to_image(picture, scale=1.0, transform=guides.Downsampled(4))
images = ldm.sample(num=4, guides=[guide])
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import build, same_model
from ldm_jax.data import inputs
from ldm_jax.diffusion.gradient_guidance import Guide, by_classifier, by_image
from ldm_jax.first_stage import lpips as lpips_files
from ldm_jax.first_stage.lpips import LPIPS
from ldm_jax.interop import files
from ldm_jax.models.classifier import NoisyClassifier
from ldm_jax.training import checkpoint
from ldm_jax.types import Array, Params, UserError

Transform = Callable[[Array], Array]

# Scale factors of a classifier and a model that are the same for all purposes.
_SAME_SCALE = 0.02


def to_class(
  ldm: Any, workdir: str, label: Any, scale: float, step: int | None = None
) -> Guide:
  """Towards `label` (an int, or one for each image), by a classifier's run.

  Raises:
    UserError: no classifier there, one of other latents or another schedule
      than the model's, or a label that it does not know.
  """
  config = checkpoint.read_config(workdir)
  parts = build.parts(config)
  if parts.classifier is None:
    raise UserError(
      f'{workdir} is a run of stage {parts.config.stage!r} and not of a '
      "classifier; train one with configs/classifier_scenes.py's like."
    )
  build.check_same_schedule(parts, ldm.parts, workdir)
  same_model.check(
    workdir,
    {'first_stage': ldm.config.first_stage},
    f'The classifier in {workdir} knows the latents of another first stage; '
    'train one on the latents of this run.',
    ('first_stage',),
  )
  items, meta = checkpoint.load_items(workdir, ['classifier'], step)
  theirs = meta['scale_factor']
  if abs(theirs / ldm.scale_factor - 1) > _SAME_SCALE:
    raise UserError(
      f'The classifier in {workdir} knows latents scaled by {theirs:.4f}, and '
      f'this model scales them by {ldm.scale_factor:.4f}; train it with '
      '--config.first_stage_from=<the workdir of this model>.'
    )
  label = parts.prepare.arrays({'label': np.atleast_1d(label)})['label']
  return classified(parts.classifier, items['classifier'], label, scale)


def classified(
  classifier: NoisyClassifier, params: Params, label: np.ndarray, scale: float
) -> Guide:
  """As `to_class`, of a classifier at hand: label [1] or [num]."""
  shared = {'params': params, 'scale': np.float32(scale)}
  return Guide(_ByClass(classifier), {'label': label}, shared)


@dataclasses.dataclass(frozen=True)
class _ByClass:
  """Guidance by a network, which is part of the program; weights are not."""

  classifier: NoisyClassifier

  def __call__(self, denoise, schedule, decode, rows, shared):
    del decode

    def log_p(z, t):
      logits = self.classifier.apply({'params': shared['params']}, z, t)
      every = jax.nn.log_softmax(logits)
      return jnp.take_along_axis(every, rows['label'][:, None], 1)[:, 0]

    return by_classifier(denoise, schedule, log_p, shared['scale'])


def identity(x: Array) -> Array:
  return x


@dataclasses.dataclass(frozen=True)
class Downsampled:
  """T of Eq. 17 as in Fig. 4: bicubic with antialias, `factor` times smaller.

  Equal factors are equal transforms, and compile nothing anew.
  """

  factor: int

  def __call__(self, x: Array) -> Array:
    b, height, width, c = x.shape
    if height % self.factor or width % self.factor:
      raise UserError(
        f'Images of {height}x{width} do not shrink {self.factor} times; take a '
        'factor that divides both sides.'
      )
    shape = (b, height // self.factor, width // self.factor, c)
    return jax.image.resize(x, shape, 'cubic', antialias=True)


def to_image(
  target: Any,
  scale: float,
  transform: Transform = identity,
  mask: Any = None,
  lpips: Mapping | None = None,
) -> Guide:
  """Towards an image of which T(target) is wanted: no training (Eq. 16, 17).

  Args:
    target: uint8, or float in [-1, 1], [H W 3] or one for each image drawn.
    scale: of the gradient; 1 is Eq. 16's unit variance.
    transform: T, differentiable, images [B H W 3] to anything [B ...].
      Functions that are not equal compile a program each.
    mask: [H W 1], 1 where the target counts, T being applied after it.
    lpips: the parameters of LPIPS (first_stage.lpips.load): T is then its
      features, and the distance is LPIPS of T's images.

  Raises:
    UserError: arrays that are no images, or of different sizes.
  """
  target = inputs.image('target', target)
  rows = {'target': target if target.ndim == 4 else target[None]}
  if mask is not None:
    mask = inputs.mask('target mask', mask)
    rows['mask'] = mask if mask.ndim == 4 else mask[None]
    inputs.check_same_pixels(rows['target'], rows['mask'])
  shared = {'scale': np.float32(scale)}
  if lpips is not None:
    shared['lpips'] = lpips
  return Guide(_ByImage(transform), rows, shared)


def read_lpips(path: str) -> Params:
  """LPIPS parameters of a file or folder; see first_stage.lpips.load."""
  return lpips_files.load(path, files.read_published, '--target_lpips')


@dataclasses.dataclass(frozen=True)
class _ByImage:
  """Guidance by the distance of T(x) from T(target)."""

  transform: Transform

  def __call__(self, denoise, schedule, decode, rows, shared):
    seen = lambda x: self.transform(x * rows['mask'] if 'mask' in rows else x)
    target = seen(rows['target'])

    def distance(x):
      if x.shape[1:] != rows['target'].shape[1:]:
        (h, w), (there_h, there_w) = x.shape[1:3], rows['target'].shape[1:3]
        raise UserError(
          f'The target has {there_h}x{there_w} pixels and what is drawn '
          f'{h}x{w}; they must be the same.'
        )
      if 'lpips' in shared:
        return LPIPS().apply({'params': shared['lpips']}, seen(x), target)
      squares = jnp.square(seen(x) - target)
      return jnp.sum(squares, range(1, squares.ndim))

    return by_image(denoise, schedule, decode, distance, shared['scale'])
