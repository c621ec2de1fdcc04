"""The Python face: a trained run, ready to encode, denoise and sample.

ldm = ldm_jax.load('runs/scenes')
images = ldm.sample(num=4, text='a red circle in the top left', guidance=3.0)
"""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax import build, edits, task_inputs
from ldm_jax.diffusion import sampling
from ldm_jax.diffusion.gradient_guidance import Guide
from ldm_jax.diffusion.settings import Settings
from ldm_jax.drawing import Drawing, Request
from ldm_jax.first_stage.codec import TiledCodec
from ldm_jax.first_stage.tiles import Tiles
from ldm_jax.parts import Parts
from ldm_jax.programs import Compiled, Extras, Programs
from ldm_jax.training import checkpoint, parallel
from ldm_jax.types import Array, Conditioning, Params, UserError


def load(workdir: str, step: int | None = None) -> 'LatentDiffusionPipeline':
  """A run's pipeline: one trained here, or written by `convert.py import`.

  Args:
    workdir: the run's folder.
    step: which checkpoint; the newest valid one unless given.

  Raises:
    UserError: no run there, or a damaged one.
  """
  parts = build.parts(checkpoint.read_config(workdir))
  names = ['first_stage']
  if parts.model is not None:
    names += ['model', 'ema']
  params, meta = checkpoint.load_items(workdir, names, step)
  if parts.model is not None and not meta.get('use_ema', True):
    # An import that samples by the raw weights; the averaged are kept too.
    params['ema'] = params['model']['unet']
  return LatentDiffusionPipeline(parts, params, meta.get('scale_factor'))


class LatentDiffusionPipeline:
  """Weights and the compiled functions on them.

  Every function compiles once per shape; guidance scale, eta and seed are
  traced. Images are float32 [B H W 3] in [-1, 1], but for `sample`, which
  gives uint8. A first stage's run has `encode` and `decode` alone.

  Attributes:
    compiled: the functions, which take the weights as arguments.
    config: the run's resolved config.
    params: {'first_stage', 'model', 'ema'}; 'ema' is of the U-Net.
    scale_factor: what latents are multiplied by; 1 for a first stage alone.
  """

  def __init__(
    self,
    parts: Parts,
    params: Mapping[str, Params],
    scale_factor: float | None = None,
    mesh: Mesh | None = None,
  ):
    if parts.model is not None and scale_factor is None:
      raise UserError(
        'The checkpoint has no scale_factor, so its latents have no known '
        'scale; add it to meta.json or import the model again.'
      )
    self.parts = parts
    self.config = parts.config
    self.scale_factor = 1.0 if scale_factor is None else float(scale_factor)
    # The mesh of a run on these devices, so that its programs are found again.
    self.mesh = mesh or parallel.make_mesh(devices=jax.local_devices())
    self._everywhere = NamedSharding(self.mesh, PartitionSpec())
    split = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
    self.compiled = Compiled(Programs(parts), split)
    self.params = params

  @property
  def params(self) -> Mapping[str, Params]:
    return self._params

  @params.setter
  def params(self, params: Mapping[str, Params]):
    place = lambda x: (
      x if on(self.mesh, x) else jax.device_put(x, self._everywhere)
    )
    self._params = jax.tree.map(place, dict(params))
    if not params:
      return
    self._frozen = {
      'first_stage': self._params['first_stage'],
      'scale_factor': jnp.float32(self.scale_factor),
    }
    if self.parts.model is not None:
      # As released: the average is of the U-Net, the conditioner is as it is.
      self._weights = {**self._params['model'], 'unet': self._params['ema']}

  # The first stage.

  def encode(self, images: Array) -> Array:
    """images [B H W 3] in [-1, 1] -> latents [B h w c] at unit scale.

    KL: the posterior's mode. VQ: before quantisation.
    """
    images = self._images(images)
    return self.compiled.encode(self._frozen, images)

  def decode(self, z: Array) -> Array:
    """latents [B h w c] at unit scale -> images [B H W 3] about [-1, 1]."""
    return self.compiled.decode(self._frozen, self._place(z))

  # The diffusion model.

  def condition(self, batch: Mapping[str, Any]) -> Conditioning:
    """What the U-Net is told of a batch: strings or tokens, labels, images."""
    self.parts.check_draws()
    return self.compiled.condition(
      self._weights, self._frozen, self._arrays(batch)
    )

  def null_condition(self, batch: Mapping[str, Any]) -> Conditioning:
    """What it is told when the condition of such a batch is dropped."""
    self.parts.check_draws()
    self.parts.check_null('null_condition')
    return self.compiled.null_condition(
      self._weights, self._frozen, self._arrays(batch)
    )

  def denoise(self, z_t: Array, t: Array, cond: Conditioning) -> Array:
    """eps_theta(z_t [B h w c], t [B], cond) -> eps [B h w c], EMA weights.

    Networks that predict v or x0 answer in eps too.
    """
    self.parts.check_draws()
    z_t = self._latents(z_t)
    t = jnp.broadcast_to(self._place(t), z_t.shape[:1])
    return self.compiled.denoise(self._weights, z_t, t, self._place(cond))

  def sample_latents(
    self,
    noise: Array,
    cond: Conditioning,
    null: Conditioning | None = None,
    *,
    guides: Sequence[Guide] = (),
    seed: int = 0,
    first: int = 0,
    **settings,
  ) -> Array:
    """noise [B h w c] ~ N(0, I) -> latents [B h w c] at unit scale.

    Args:
      noise: where the walk begins.
      cond: from `condition`.
      null: from `null_condition`; needed where guidance is not 1.
      guides: from ldm_jax.guides, the innermost first.
      seed: decides the noise that stochastic samplers add.
      first: number of the first image, of which the added noise depends.
      **settings: fields of diffusion.settings.Settings: steps=50,
        sampler='ddim', guidance=1.0, eta=0.0, spacing and more;
        docs/sampling.md says which to choose.

    Raises:
      UserError: an unknown sampler or spacing, or guidance without a null.
    """
    self.parts.check_draws()
    settings, unknown = Settings.split(settings)
    if unknown:
      raise UserError(
        f'{next(iter(unknown))!r} is no setting of sampling; there are: '
        f'{", ".join(Settings.__dataclass_fields__)}.'
      )
    task_inputs.check_guidance(self.parts, settings.guidance)
    if settings.guidance == 1:
      null = None
    elif null is None:
      raise UserError(
        f'guidance={settings.guidance} needs null, the condition dropped: pass '
        'null=ldm.null_condition(batch), or guidance=1.'
      )
    noise = self._latents(noise)
    num = noise.shape[0]
    return self.compiled.walk(
      self._weights,
      self._frozen,
      self._plan(settings),
      noise,
      parallel.place_keys(
        sampling.image_keys(seed, first, num), self._everywhere
      ),
      self._place(cond),
      self._place(null),
      Extras(guides=self._place(tuple(g.for_images(num) for g in guides))),
    )

  def sample(self, num: int = 4, **given) -> np.ndarray:
    """Images uint8 [num H W 3], from noise to pixels in one program.

    An image depends on the seed, its number and its inputs; on nothing else:
    the same images come from any batch size and number of devices.

    Args:
      num: how many images.
      **given: all keywords of `sample_batches`: the task's inputs (text or
        prompt, label, ...), the settings of sampling (steps, sampler,
        guidance, ...), seed, size, ...

    Raises:
      UserError: an input that the task lacks or does not know.
    """
    return np.concatenate(list(self.sample_batches(num, **given)))

  def sample_batches(
    self,
    num: int = 4,
    *,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    batch_size: int = 64,
    first: int = 0,
    strength: float | None = None,
    outpaint: Sequence[int] | None = None,
    guides: Sequence[Guide] = (),
    tile: int | None = None,
    window: int | None = None,
    window_overlap: int | None = None,
    **given,
  ) -> Iterator[np.ndarray]:
    """As `sample`, a batch at a time; mistakes are found before the first.

    Args:
      num: how many images.
      seed: decides all noise.
      size: (height, width) in pixels; the training size unless given.
      batch_size: at most so many at once; more are split.
      first: number of the first image, to continue an earlier call.
      strength: share of the steps that an `image` is taken back, and drawn
        anew from there (SDEdit): 0 gives its reconstruction.
      outpaint: (top, right, bottom, left) pixels to draw around an `image`.
      guides: from ldm_jax.guides, the innermost first.
      tile: first stages run in tiles of so many pixels; same images, less
        memory.
      window: the U-Net runs in windows of so many pixels.
      window_overlap: by how many they overlap; a quarter unless given.
      **given: settings, the fields of diffusion.settings.Settings: steps=50,
        sampler='ddim', guidance=1.0, eta=0.0, spacing and more
        (docs/sampling.md says which to choose); and the task's inputs by batch
        key (text or prompt, label, ...), each one value for all images or
        `num` of them. `image` and `mask` (1 = fill) are known to every task:
        one without inpainting begins from the image.

    Raises:
      UserError: an input that the task lacks or does not know.
    """
    self.parts.check_draws()
    settings, given = Settings.split(given)
    if num < 1 or batch_size < 1:
      raise UserError(f'num={num} and batch_size={batch_size}: at least 1.')
    task_inputs.check_guidance(self.parts, settings.guidance)
    edit, given = edits.split(
      num, given, task_inputs.keys(self.parts), strength, outpaint
    )
    inputs = self.inputs(num, given)
    drawn = task_inputs.drawn_size(self.parts, size, inputs, edit and edit.size)
    inputs['batch'] = np.zeros(num)  # Something to count examples by.
    asked = Request(
      num=num,
      seed=seed,
      first=first,
      settings=settings,
      plan=self._plan(settings, edit.strength if edit else 1.0),
      shape=self.parts.sampled_shape(*drawn),
      inputs=inputs,
      extras=Extras(
        guides=tuple(g.for_images(num) for g in guides),
        window=self.parts.window(window, window_overlap),
      ),
      edit=edit,
      tiled=TiledCodec(Tiles(self.parts.first_stage, tile)) if tile else None,
    )
    # Full batches of one shape: one program, and every device has work.
    devices = self.mesh.size
    batch_size = math.ceil(min(batch_size, num) / devices) * devices
    starts = range(0, num, batch_size)
    drawing = Drawing(asked, self.compiled, self._weights, self._frozen)
    return (drawing.batch(start, batch_size) for start in starts)

  # So that help() and completion tell all that `sample` takes.
  sample.__signature__ = inspect.signature(sample_batches).replace(
    return_annotation=np.ndarray
  )

  def inputs(
    self,
    num: int,
    given: Mapping[str, Any],
    outpaint: Sequence[int] | None = None,
  ) -> dict[str, Any]:
    """The task's inputs as numpy arrays of `num` rows; raises UserError.

    `outpaint`: as of `sample`, for an image that the task itself asks for.
    """
    self.parts.check_draws()
    if outpaint is not None:
      given = edits.outpainted(given, outpaint)
    return task_inputs.rows(self.parts, num, given)

  def _plan(self, settings: Settings, strength: float = 1.0):
    pixels = self.parts.first_stage.downsampling == 1
    return settings.plan(self.parts.schedule, pixels=pixels, strength=strength)

  @property
  def program(self):
    """(function, weights): what `sample` compiles, for whoever exports it.

    function(*weights, plan, keys [B], batch, shape=(h, w, c)) gives uint8
    [B H W 3]; the plan is a diffusion.settings.Plan.
    """
    return self.compiled.programs.sample, (self._weights, self._frozen)

  # Checks and placement.

  def _place(self, tree: Any) -> Any:
    """Arrays of any origin, repeated on every device of the mesh."""
    return jax.device_put(jax.tree.map(jnp.asarray, tree), self._everywhere)

  def _latents(self, z: Array) -> Array:
    self.parts.check_latent(*np.shape(z)[1:3])
    return self._place(z)

  def _images(self, images: Array) -> Array:
    images = self._place(images)
    if images.ndim != 4 or images.dtype == jnp.uint8:
      raise UserError(
        f'images {images.dtype}{list(images.shape)} must be float '
        '[B H W 3] in [-1, 1]; uint8 is x / 127.5 - 1.'
      )
    self.parts.latent_shape_of(*images.shape[1:3])
    return images

  def _arrays(self, batch: Mapping[str, Any]) -> dict[str, Array]:
    return self._place(task_inputs.arrays(self.parts, batch))


def on(mesh: Mesh, x: Any) -> bool:
  """Whether x already lies on the mesh, split or repeated."""
  return isinstance(x, jax.Array) and getattr(x.sharding, 'mesh', None) == mesh
