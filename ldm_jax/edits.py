"""A user's image to go on from, by a model that was trained for no such task.

What the diffusion sees of it is diffusion.editing; this is what comes before
(which pixels are whose, checked) and after (known pixels as they were).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.data import canvas, images, inputs
from ldm_jax.diffusion.editing import Start, first_level
from ldm_jax.diffusion.sampling import Levels
from ldm_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Edit:
  """An image, where it is to be drawn anew, and how much of the rest stays.

  Attributes:
    image: float32 [B H W 3] in [-1, 1]; one, or one for each to be drawn.
    mask: [B H W 1], 1 where it is drawn anew; None: everywhere.
    strength: share of the steps that are walked from the image itself.
  """

  image: np.ndarray
  mask: np.ndarray | None
  strength: float

  @property
  def size(self) -> tuple[int, int]:
    return self.image.shape[1:3]

  def to_encode(self, chosen: np.ndarray) -> np.ndarray:
    """The images of these numbers, as the encoder is to see them.

    Where holes are drawn from noise alone, they are filled from around them.
    """
    image = _rows(self.image, chosen)
    if self.mask is None or self.strength < 1:
      return image
    return canvas.filled(image, _rows(self.mask, chosen))

  def known(self, chosen: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[B h w 1], 1 where a latent is of known pixels alone."""
    if self.mask is None:
      return np.zeros((len(chosen), *size, 1), np.float32)
    return canvas.blocks(_rows(self.mask, chosen), size)

  def start(
    self,
    chosen: np.ndarray,
    size: tuple[int, int],
    levels: Levels,
    encode: Callable[[np.ndarray], Any],
  ) -> Start:
    """Where the walks of these numbers begin, latents [B h w c] on `levels`."""
    # Where nothing is said to be known, all of the image shows through.
    whole = np.bool_(self.mask is None or self.strength < 1)
    return Start(
      encode(self.to_encode(chosen)),
      self.known(chosen, size),
      first_level(levels),
      whole,
    )

  def finish(self, drawn: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """uint8 [B H W 3], composited: known pixels are the image's, bitwise."""
    if self.mask is None:
      return drawn
    known = images.to_uint8(_rows(self.image, chosen))
    return np.where(_rows(self.mask, chosen) >= 0.5, drawn, known)


def split(
  num: int,
  given: Mapping[str, Any],
  of_task: set[str],
  strength: float | None = None,
  outpaint: Sequence[int] | None = None,
) -> tuple[Edit | None, dict[str, Any]]:
  """(what is to be edited, the inputs that are left for the task).

  An image that the task itself asks for (`of_task`) stays its own.

  Args:
    num: how many images are drawn.
    given: inputs by key; `image` and `mask` are looked at.
    of_task: the keys that the task takes.
    strength: of 0 to 1; see diffusion.editing.shortened.
    outpaint: (top, right, bottom, left) pixels to add to the image.

  Raises:
    UserError: an image without a mask or a strength, or the reverse; another
      number of them than is drawn; sizes that differ.
  """
  given = dict(given)
  if outpaint is not None:
    given = outpainted(given, outpaint)
  if 'image' not in given:
    if strength is not None:
      raise UserError(f'strength={strength} needs an image to begin from.')
    if 'mask' in given and 'mask' not in of_task:
      raise UserError('A mask needs the image that it is of: give image too.')
    return None, given
  if 'image' in of_task:
    if strength is not None:
      raise UserError(
        f'strength={strength}: the image is an input of this task, which '
        'begins from noise; leave strength out.'
      )
    return None, given
  found = {k: _batch(k, given) for k in ('image', 'mask') if k in given}
  for key, value in found.items():
    del given[key]
    if len(value) not in (1, num):
      raise UserError(
        f'{len(value)} values of {key!r} for num={num} images; give one, or '
        'one for each.'
      )
  image, mask = found['image'], found.get('mask')
  if mask is not None:
    inputs.check_same_pixels(image, mask)
  if mask is None and strength is None:
    raise UserError(
      'An image alone does not say what to draw: give a mask, outpaint, or a '
      'strength such as 0.6.'
    )
  strength = 1.0 if strength is None else strength
  if not 0 <= strength <= 1:
    raise UserError(
      f'strength={strength} is outside 0 (the image itself) to 1 (all of it '
      'drawn anew).'
    )
  return Edit(image, mask, strength), given


def outpainted(
  given: Mapping[str, Any], outpaint: Sequence[int]
) -> dict[str, Any]:
  """Inputs with a larger image, filled from within, and a mask of its margins.

  Margins are (top, right, bottom, left), in pixels. A mask that is given stays
  part of the new one. Raises UserError where sides are no sizes, or there is no
  image.
  """
  if 'image' not in given:
    raise UserError(f'outpaint={outpaint} needs an image to begin from.')
  image, margins = canvas.outpainted(_batch('image', given), outpaint)
  mask = margins
  if 'mask' in given:
    inner, _ = canvas.outpainted(_batch('mask', given), outpaint)
    mask = np.maximum(margins, inner)
  return {**given, 'image': canvas.filled(image, margins), 'mask': mask}


def _batch(key: str, given: Mapping[str, Any]) -> np.ndarray:
  """An image or a mask, checked, with a batch even where it is one."""
  check = {'image': inputs.image, 'mask': inputs.mask}[key]
  value = check(key, given[key])
  return value if value.ndim == 4 else value[None]


def _rows(x: np.ndarray, chosen: np.ndarray) -> np.ndarray:
  return x[chosen] if len(x) > 1 else np.repeat(x, len(chosen), 0)
