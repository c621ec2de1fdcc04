"""What the pipeline compiles for sampling: pure functions of weights and all.

`weights` is {'unet', 'conditioner', ...}, the parameters of the trained model;
`frozen` is {'first_stage', 'scale_factor'}.
"""

import dataclasses
import functools
from collections.abc import Mapping

import flax.struct
import jax.numpy as jnp
from jax.sharding import NamedSharding

from ldm_jax.diffusion import sampling, windows
from ldm_jax.diffusion.editing import Start, masked
from ldm_jax.diffusion.gradient_guidance import Guide
from ldm_jax.diffusion.guidance import classifier_free
from ldm_jax.diffusion.prediction import as_denoiser
from ldm_jax.diffusion.thresholding import dynamic_threshold
from ldm_jax.first_stage.codec import to_uint8
from ldm_jax.nn import conv
from ldm_jax.parts import Parts
from ldm_jax.types import Array


@flax.struct.dataclass
class Extras:
  """What a walk takes beside its plan and its conditions; see `sample`."""

  start: Start | None = None
  guides: tuple[Guide, ...] = ()
  # What the task encodes, by what asks for it, where that is done before.
  encoded: Mapping[str, Array] | None = None
  window: tuple[int, int] | None = flax.struct.field(
    pytree_node=False, default=None
  )  # (size, overlap) in latents


NO_EXTRAS = Extras()


@dataclasses.dataclass(frozen=True)
class Programs:
  """Of a run with a diffusion model; nothing here is compiled yet."""

  parts: Parts

  def condition(self, weights, frozen, batch, encoded=None):
    """The task's arrays -> Conditioning."""
    return self._told('condition', weights, frozen, batch, encoded)

  def null_condition(self, weights, frozen, batch, encoded=None):
    """As `condition`, with the condition dropped."""
    return self._told('null_condition', weights, frozen, batch, encoded)

  def _told(self, method, weights, frozen, batch, encoded):
    if encoded is None:
      encode = functools.partial(self.parts.codec.encode, frozen)
    else:
      encode = lambda image: encoded[method]
    return self.parts.model.apply(
      {'params': weights}, batch, encode, method=method
    )

  def to_encode(self, weights, batch, *, method):
    """The images [B H W 3] that the task encodes when `method` is called."""
    seen = []

    def encode(images):
      seen.append(images)
      shape = self.parts.latent_shape_of(*images.shape[1:3])
      return jnp.zeros((len(images), *shape))

    self.parts.model.apply({'params': weights}, batch, encode, method=method)
    (images,) = seen
    return images

  def denoise(self, weights, z, t, cond):
    """z [B h w c], t [B] -> eps [B h w c]."""
    return self._as_eps(lambda z, t: self._predict(weights, z, t, cond))(z, t)

  def walk(
    self, weights, frozen, plan, noise, keys, cond, null, extras=NO_EXTRAS
  ):
    """noise [B h w c] -> latents [B h w c]; `null` where the plan guides."""
    schedule = self.parts.schedule
    model = functools.partial(self._predict, weights)
    if extras.window is not None:
      model = windows.windowed(model, *extras.window)
    if plan.guidance is None:
      predict = lambda z, t: model(z, t, cond)
    else:
      predict = classifier_free(model, cond, null, plan.guidance)
    denoise = self._as_eps(predict)
    if plan.threshold is not None:
      denoise = dynamic_threshold(denoise, schedule, *plan.threshold)
    decode = functools.partial(self.parts.codec.decode, frozen)
    for guide in extras.guides:
      denoise = guide.wrap(denoise, schedule, decode, guide.rows, guide.shared)
    if extras.start is not None:
      start = extras.start
      denoise = masked(denoise, schedule, start.z_0, start.known)
      noise = start.begin(noise)
    return sampling.sample(denoise, plan.table, noise, keys)

  def sample(
    self,
    weights,
    frozen,
    plan,
    keys,
    batch,
    extras=NO_EXTRAS,
    *,
    shape,
    latents=False,
  ):
    """From the noise of `keys` [B] to uint8 images [B H W 3].

    `shape` is (h, w, c); with `latents` they are what is returned.
    """
    cond = self.condition(weights, frozen, batch, extras.encoded)
    null = None
    if plan.guidance is not None:
      null = self.null_condition(weights, frozen, batch, extras.encoded)
    noise = sampling.initial_noise(keys, shape)
    z = self.walk(weights, frozen, plan, noise, keys, cond, null, extras)
    if latents:
      return z
    images = to_uint8(self.parts.codec.decode(frozen, z))
    if hasattr(self.parts.prepare, 'finish'):
      images = self.parts.prepare.finish(images, batch)
    return images

  def _predict(self, weights, z, t, cond):
    return self.parts.model.apply(
      {'params': weights}, z, t, cond, method='denoise'
    )

  def _as_eps(self, predict):
    kind = self.parts.loss.prediction
    return as_denoiser(predict, kind, self.parts.schedule)


class Compiled:
  """A run's functions, compiled once for each shape; weights are arguments.

  `split` is where what is drawn lies, an image's share on every device.
  """

  def __init__(self, programs: Programs, split: NamedSharding):
    self.programs = programs
    self.split = split
    self.encode = conv.jit(programs.parts.codec.encode)
    self.decode = conv.jit(programs.parts.codec.decode)
    self.condition = conv.jit(programs.condition)
    self.null_condition = conv.jit(programs.null_condition)
    self.to_encode = conv.jit(programs.to_encode, static_argnames='method')
    self.denoise = conv.jit(programs.denoise)
    self.walk = conv.jit(programs.walk)
    self.sample = conv.jit(
      programs.sample,
      static_argnames=('shape', 'latents'),
      out_shardings=split,
    )
