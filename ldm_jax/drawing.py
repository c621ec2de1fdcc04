"""A request for images, drawn a batch at a time.

What one program does, from noise to pixels, is programs.Programs.sample; this
is what comes before (rows of inputs, latents of images) and after (tiles, known
pixels as they were), on the host.
"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from ldm_jax.diffusion.editing import Start
from ldm_jax.diffusion.sampling import image_keys
from ldm_jax.diffusion.settings import Plan, Settings
from ldm_jax.edits import Edit
from ldm_jax.first_stage.codec import TiledCodec, to_uint8
from ldm_jax.programs import Compiled, Extras
from ldm_jax.training import parallel
from ldm_jax.types import Array, Params


@dataclasses.dataclass(frozen=True)
class Request:
  """What is to be drawn, checked."""

  num: int
  seed: int
  first: int
  settings: Settings
  plan: Plan
  shape: tuple[int, int, int]  # (h, w, c)
  inputs: Mapping[str, np.ndarray]  # `num` rows of each
  extras: Extras
  edit: Edit | None
  tiled: TiledCodec | None


@dataclasses.dataclass(frozen=True)
class Drawing:
  """A request, and the functions and weights that draw it."""

  asked: Request
  compiled: Compiled
  weights: Params
  frozen: Params

  def batch(self, start: int, size: int) -> np.ndarray:
    """uint8 [b H W 3]: a batch of `size` from image `start` on, or the rest."""
    asked, parts = self.asked, self.compiled.programs.parts
    chosen = np.minimum(np.arange(start, start + size), asked.num - 1)
    take = lambda x: self._split(x[chosen])
    keys = image_keys(asked.seed, asked.first + start, size)
    batch = jax.tree.map(take, asked.inputs)
    images = self.compiled.sample(
      self.weights,
      self.frozen,
      asked.plan,
      parallel.place_keys(keys, self.compiled.split),
      batch,
      asked.extras.replace(
        guides=tuple(g.taking(take) for g in asked.extras.guides),
        start=asked.edit and self._start(chosen),
        encoded=self._encoded(batch),
      ),
      shape=asked.shape,
      latents=asked.tiled is not None,
    )
    images = parallel.fetch(images)[: asked.num - start]
    chosen = chosen[: len(images)]
    if asked.tiled:
      images = np.asarray(to_uint8(asked.tiled.decode(self.frozen, images)))
      if hasattr(parts.prepare, 'finish'):
        of_these = {k: x[chosen] for k, x in asked.inputs.items()}
        images = np.asarray(parts.prepare.finish(images, of_these))
    if asked.edit:
      images = asked.edit.finish(images, chosen)
    return images

  def _encoded(self, batch: Mapping[str, Array]) -> dict[str, Array] | None:
    """What the task encodes of a batch, in tiles; None: the program does."""
    asked = self.asked
    if not asked.tiled or 'image' not in batch:
      return None
    found, guided = {}, asked.plan.guidance is not None
    for method in ('condition', 'null_condition')[: 1 + guided]:
      images = self.compiled.to_encode(self.weights, batch, method=method)
      z = asked.tiled.encode(self.frozen, parallel.fetch(images))
      found[method] = self._split(z)
    return found

  def _start(self, chosen: np.ndarray) -> Start:
    """An edit's latents, a row for each of these numbers of images."""
    asked, edit = self.asked, self.asked.edit
    if asked.tiled:
      encode = lambda image: asked.tiled.encode(self.frozen, image)
    else:
      encode = lambda image: self.compiled.encode(
        self.frozen, self._split(image)
      )
    schedule = self.compiled.programs.parts.schedule
    levels = asked.settings.levels(schedule, edit.strength)
    start = edit.start(chosen, asked.shape[:2], levels, encode)
    return start.replace(
      z_0=self._split(start.z_0), known=self._split(start.known)
    )

  def _split(self, x: Array | np.ndarray) -> Array:
    return jax.device_put(x, self.compiled.split)
