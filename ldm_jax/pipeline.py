"""The Python face: a trained run, ready to encode, denoise and sample.

ldm = ldm_jax.load('runs/scenes')
images = ldm.sample(num=4, text='a red circle in the top left', guidance=3.0)
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax import build, edits
from ldm_jax.diffusion import sampling, windows
from ldm_jax.diffusion.editing import Start, first_level, masked
from ldm_jax.diffusion.gradient_guidance import Guide
from ldm_jax.diffusion.guidance import classifier_free
from ldm_jax.diffusion.prediction import as_denoiser
from ldm_jax.diffusion.settings import Settings
from ldm_jax.diffusion.thresholding import dynamic_threshold
from ldm_jax.first_stage.tiles import Tiles
from ldm_jax.nn import conv
from ldm_jax.training import checkpoint, parallel
from ldm_jax.types import Array, Conditioning, Params, UserError

ALIASES = {'prompt': 'text'}


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


@flax.struct.dataclass
class Beside:
  """What sampling takes beside the task's inputs; see `sample`."""

  start: Start | None = None
  guides: tuple[Guide, ...] = ()
  window: tuple[int, int] | None = flax.struct.field(
    pytree_node=False, default=None
  )  # (size, overlap) in latents


_NOTHING = Beside()


class LatentDiffusionPipeline:
  """Weights and the compiled functions on them.

  Every function compiles once per shape; guidance scale, eta and seed are
  traced. Images are float32 [B H W 3] in [-1, 1], but for `sample`, which
  gives uint8. A first stage's run has `encode` and `decode` alone.

  Attributes:
    config: the run's resolved config.
    params: {'first_stage', 'model', 'ema'}; 'ema' is of the U-Net.
    scale_factor: what latents are multiplied by; 1 for a first stage alone.
  """

  def __init__(
    self,
    parts: build.Parts,
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
    self.mesh = mesh or Mesh(np.asarray(jax.local_devices()), ('data',))
    self._everywhere = NamedSharding(self.mesh, PartitionSpec())
    self._split = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
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
    return self._encode(self._frozen, images)

  def decode(self, z: Array) -> Array:
    """latents [B h w c] at unit scale -> images [B H W 3] about [-1, 1]."""
    return self._decode(self._frozen, self._place(z))

  @functools.cached_property
  def _encode(self):
    return self._jit(self.parts.codec.encode)

  @functools.cached_property
  def _decode(self):
    return self._jit(self.parts.codec.decode)

  # The diffusion model.

  def condition(self, batch: Mapping[str, Any]) -> Conditioning:
    """What the U-Net is told of a batch: strings or tokens, labels, images."""
    self._need_model()
    return self._condition(self._weights, self._frozen, self._arrays(batch))

  def null_condition(self, batch: Mapping[str, Any]) -> Conditioning:
    """What it is told when the condition of such a batch is dropped."""
    self._need_model()
    return self._null(self._weights, self._frozen, self._arrays(batch))

  def denoise(self, z_t: Array, t: Array, cond: Conditioning) -> Array:
    """eps_theta(z_t [B h w c], t [B], cond) -> eps [B h w c], EMA weights.

    Networks that predict v or x0 answer in eps too.
    """
    self._need_model()
    z_t = self._place(z_t)
    t = jnp.broadcast_to(self._place(t), z_t.shape[:1])
    return self._denoise(self._weights, z_t, t, self._place(cond))

  def sample_latents(
    self,
    noise: Array,
    cond: Conditioning,
    null: Conditioning | None = None,
    *,
    steps: int = 50,
    sampler: str = 'ddim',
    eta: float = 0.0,
    guidance: float = 1.0,
    spacing: str = '',
    guidance_interval: tuple[float, float] | None = None,
    guidance_rescale: float = 0.0,
    threshold: float = 0.0,
    threshold_range: float = 0.0,
    guides: Sequence[Guide] = (),
    seed: int = 0,
    first: int = 0,
  ) -> Array:
    """noise [B h w c] ~ N(0, I) -> latents [B h w c] at unit scale.

    Args:
      noise: where the walk begins.
      cond: from `condition`.
      null: from `null_condition`; needed where guidance is not 1.
      steps, sampler, eta, guidance, spacing, guidance_interval,
        guidance_rescale, threshold, threshold_range: as in
        diffusion.settings.Settings; docs/sampling.md says which to choose.
      guides: from ldm_jax.guides, the innermost first.
      seed: decides the noise that stochastic samplers add.
      first: number of the first image, of which the added noise depends.

    Raises:
      UserError: an unknown sampler or spacing, or guidance without a null.
    """
    self._need_model()
    settings = Settings(
      steps, sampler, eta, guidance, spacing, guidance_interval,
      guidance_rescale, threshold, threshold_range,
    )  # fmt: skip
    noise = self._place(noise)
    return self._sample_latents(
      self._weights,
      self._frozen,
      self._plan(settings),
      noise,
      sampling.image_keys(seed, first, noise.shape[0]),
      self._place(cond),
      self._null_for(guidance, null),
      Beside(guides=self._place(of_each(guides, noise.shape[0]))),
    )

  def sample(
    self,
    num: int = 4,
    *,
    steps: int = 50,
    seed: int = 0,
    sampler: str = 'ddim',
    eta: float = 0.0,
    guidance: float = 1.0,
    spacing: str = '',
    guidance_interval: tuple[float, float] | None = None,
    guidance_rescale: float = 0.0,
    threshold: float = 0.0,
    threshold_range: float = 0.0,
    size: tuple[int, int] | None = None,
    batch_size: int = 64,
    first: int = 0,
    strength: float | None = None,
    outpaint: Sequence[int] | None = None,
    guides: Sequence[Guide] = (),
    tile: int | None = None,
    window: int | None = None,
    window_overlap: int | None = None,
    **task_inputs,
  ) -> np.ndarray:
    """Images uint8 [num H W 3], from noise to pixels in one program.

    An image depends on the seed, its number and its inputs; on nothing else:
    the same images come from any batch size and number of devices.

    Args:
      num: how many images.
      steps, sampler, eta, guidance, spacing, guidance_interval,
        guidance_rescale, threshold, threshold_range: as in
        diffusion.settings.Settings; docs/sampling.md says which to choose.
      seed: decides all noise.
      size: (height, width) in pixels; the training size unless given.
      batch_size: at most so many at once; more are split.
      first: number of the first image, to continue an earlier call.
      strength: share of the steps that an `image` is taken back, and drawn
        anew from there (SDEdit): 0 leaves it as it is.
      outpaint: (top, right, bottom, left) pixels to draw around an `image`.
      guides: from ldm_jax.guides, the innermost first.
      tile: first stages run in tiles of so many pixels; same images, less
        memory.
      window: the U-Net runs in windows of so many pixels.
      window_overlap: by how many they overlap; a quarter unless given.
      **task_inputs: by batch key (text or prompt, label, ...), each one value
        for all images or `num` of them. `image` and `mask` (1 = fill) are
        known to every task: one without inpainting begins from the image.

    Raises:
      UserError: an input that the task lacks or does not know.
    """
    settings = Settings(
      steps, sampler, eta, guidance, spacing, guidance_interval,
      guidance_rescale, threshold, threshold_range,
    )  # fmt: skip
    batches = self.sample_batches(
        num, settings, seed=seed, size=size, batch_size=batch_size,
        first=first, strength=strength, outpaint=outpaint, guides=guides,
        tile=tile, window=window, window_overlap=window_overlap, **task_inputs,
    )  # fmt: skip
    return np.concatenate(list(batches))

  def sample_batches(
    self,
    num: int,
    settings: Settings,
    *,
    seed: int,
    size: tuple[int, int] | None,
    batch_size: int,
    first: int = 0,
    strength: float | None = None,
    outpaint: Sequence[int] | None = None,
    guides: Sequence[Guide] = (),
    tile: int | None = None,
    window: int | None = None,
    window_overlap: int | None = None,
    **task_inputs,
  ) -> Iterator[np.ndarray]:
    """As `sample`, a batch at a time."""
    self._need_model()
    if num < 1 or batch_size < 1:
      raise UserError(f'num={num} and batch_size={batch_size}: at least 1.')
    edit, task_inputs = edits.split(
      num, task_inputs, self._task_keys(), strength, outpaint
    )
    inputs = self.inputs(num, task_inputs)
    inputs['batch'] = np.zeros(num)  # Something to count examples by.
    shape = self.parts.sampled_shape(*self._size(size, inputs, edit))
    plan = self._plan(settings, edit.strength if edit else 1.0)
    beside = Beside(
      guides=of_each(guides, num), window=self._window(window, window_overlap)
    )
    tiles = Tiles(self.parts.first_stage, tile) if tile else None
    devices = self.mesh.size
    # Full batches of one shape: one program, and every device has work.
    batch_size = math.ceil(min(batch_size, num) / devices) * devices
    split = lambda x: jax.device_put(x, self._split)
    for start in range(0, num, batch_size):
      chosen = np.minimum(np.arange(start, start + batch_size), num - 1)
      take = lambda x, chosen=chosen: split(x[chosen])
      if edit:
        begin = self._start(edit, chosen, shape[:2], settings, tiles)
        beside = beside.replace(start=begin)
      images = self._sample_images(
        self._weights,
        self._frozen,
        plan,
        split(sampling.image_keys(seed, first + start, batch_size)),
        jax.tree.map(take, inputs),
        beside.replace(
          guides=tuple(
            g.replace(rows=jax.tree.map(take, g.rows)) for g in beside.guides
          )
        ),
        shape=shape,
        latents=tiles is not None,
      )
      images = parallel.fetch(images)[: num - start]
      if tiles:
        images = self._decode_in_tiles(tiles, images)
      yield edit.finish(images, chosen[: len(images)]) if edit else images

  def _start(self, edit, chosen, size, settings, tiles) -> Start:
    """An edit's latents, a row for each of these numbers of images."""
    image = edit.to_encode(chosen)
    if tiles:
      z_0 = tiles.encode(self._frozen['first_stage'], image)
      z_0 = z_0 * self.scale_factor
    else:
      z_0 = self._encode(self._frozen, jax.device_put(image, self._split))
    z_0, known = (
      jax.device_put(x, self._split) for x in (z_0, edit.known(chosen, size))
    )
    levels = settings.levels(self.parts.schedule, edit.strength)
    # Where nothing is said to be known, all of the image shows through.
    whole = np.bool_(edit.mask is None or edit.strength < 1)
    return Start(z_0, known, first_level(levels), whole)

  def _decode_in_tiles(self, tiles: Tiles, z: np.ndarray) -> np.ndarray:
    z = z / self.scale_factor
    return np.asarray(to_uint8(tiles.decode(self._frozen['first_stage'], z)))

  def _window(self, window, overlap) -> tuple[int, int] | None:
    """(size, overlap) in latents of a window given in pixels; checked."""
    if window is None:
      return None
    f = self.parts.first_stage.downsampling
    overlap = window // 4 // f * f if overlap is None else overlap
    if window % f or overlap % f:
      raise UserError(
        f'window={window}, window_overlap={overlap}: both must divide by the '
        f"first stage's f={f}."
      )
    windows.check(window // f, overlap // f, self.parts.latent_multiple)
    return window // f, overlap // f

  def _plan(self, settings: Settings, strength: float = 1.0):
    """(table, guidance, threshold): what of the settings is traced."""
    pixels = self.parts.first_stage.downsampling == 1
    return (
      settings.table(self.parts.schedule, strength),
      settings.guided(),
      settings.thresholded(pixels),
    )

  @property
  def program(self):
    """(function, weights): what `sample` compiles, for whoever exports it.

    function(*weights, plan, keys [B], batch, shape=(h, w, c)) gives uint8
    [B H W 3]; a plan is (table, guidance or None, threshold or None).
    """
    return self._noise_to_pixels, (self._weights, self._frozen)

  # Compiled functions; weights are arguments of each.

  @functools.cached_property
  def _condition(self):
    return self._jit(functools.partial(self._conditioning, 'condition'))

  @functools.cached_property
  def _null(self):
    return self._jit(functools.partial(self._conditioning, 'null_condition'))

  @functools.cached_property
  def _denoise(self):
    return self._jit(self._eps)

  @functools.cached_property
  def _sample_latents(self):
    return self._jit(self._walk)

  @functools.cached_property
  def _sample_images(self):
    return self._jit(
      self._noise_to_pixels,
      static_argnames=('shape', 'latents'),
      out_shardings=self._split,
    )

  def _jit(self, function, **settings):
    options = conv.cpu_compiler_options()
    return jax.jit(function, compiler_options=options, **settings)

  def _conditioning(self, method, weights, frozen, batch):
    encode = functools.partial(self.parts.codec.encode, frozen)
    return self.parts.model.apply(
      {'params': weights}, batch, encode, method=method
    )

  def _predict(self, weights, z, t, cond):
    return self.parts.model.apply(
      {'params': weights}, z, t, cond, method='denoise'
    )

  def _as_eps(self, predict):
    kind = self.parts.loss.prediction
    return as_denoiser(predict, kind, self.parts.schedule)

  def _eps(self, weights, z, t, cond):
    predict = lambda z, t: self._predict(weights, z, t, cond)
    return self._as_eps(predict)(z, t)

  def _walk(self, weights, frozen, plan, noise, keys, cond, null, beside):
    rows, guidance, threshold = plan
    model = functools.partial(self._predict, weights)
    if beside.window is not None:
      model = windows.windowed(model, *beside.window)
    if guidance is None:
      predict = lambda z, t: model(z, t, cond)
    else:
      predict = classifier_free(model, cond, null, guidance)
    denoise = self._as_eps(predict)
    if threshold is not None:
      denoise = dynamic_threshold(denoise, self.parts.schedule, *threshold)
    decode = functools.partial(self.parts.codec.decode, frozen)
    for guide in beside.guides:
      denoise = guide.wrap(
        denoise, self.parts.schedule, decode, guide.rows, guide.shared
      )
    if beside.start is not None:
      start = beside.start
      denoise = masked(denoise, self.parts.schedule, start.z_0, start.known)
      noise = start.begin(noise)
    return sampling.sample(denoise, rows, noise, keys)

  def _noise_to_pixels(
    self,
    weights,
    frozen,
    plan,
    keys,
    batch,
    beside=_NOTHING,
    *,
    shape,
    latents=False,
  ):
    cond = self._conditioning('condition', weights, frozen, batch)
    null = None
    if plan[1] is not None:
      null = self._conditioning('null_condition', weights, frozen, batch)
    noise = sampling.initial_noise(keys, shape)
    z = self._walk(weights, frozen, plan, noise, keys, cond, null, beside)
    if latents:
      return z
    images = to_uint8(self.parts.codec.decode(frozen, z))
    if hasattr(self.parts.prepare, 'finish'):
      images = self.parts.prepare.finish(images, batch)
    return images

  # Checks and placement.

  def _need_model(self):
    if self.parts.classifier is not None:
      raise UserError(
        'This workdir holds a classifier: give it to sample.py as --classifier '
        'and the run that it is to guide as --workdir.'
      )
    if self.parts.model is None:
      raise UserError(
        'This workdir holds a first stage alone: it can encode and decode. '
        'Train a diffusion model on it with '
        '--config.first_stage_from=<this workdir>.'
      )

  def _null_for(self, guidance: float, null: Conditioning | None):
    if guidance == 1.0:
      return None
    if null is None:
      raise UserError(
        f'guidance={guidance} needs null, the condition dropped: pass '
        'null=ldm.null_condition(batch), or guidance=1.'
      )
    return self._place(null)

  def _place(self, tree: Any) -> Any:
    """Arrays of any origin, repeated on every device of the mesh."""
    return jax.device_put(jax.tree.map(jnp.asarray, tree), self._everywhere)

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
    batch = {ALIASES.get(k, k): v for k, v in batch.items()}
    return self._place(self.parts.prepare.arrays(batch))

  def _size(self, size, inputs, edit=None) -> tuple[int, int]:
    """(height, width) to draw: the inputs', the user's, or that of training."""
    if edit:
      given = edit.size
    elif hasattr(self.parts.prepare, 'size_of'):
      given = tuple(self.parts.prepare.size_of(inputs))
    else:
      return size or (self.parts.data.size,) * 2
    if size not in (None, given):
      raise UserError(
        f'size={size[0]}x{size[1]}, but the inputs are for images of '
        f'{given[0]}x{given[1]}; leave size out.'
      )
    return given

  def _task_keys(self) -> set[str]:
    """The inputs that the task itself takes."""
    blank = self.parts.prepare.blank(self.parts.data.size)
    return {*self.parts.prepare.needs, *blank}

  def inputs(self, num: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """The task's inputs as numpy arrays of `num` rows; raises UserError."""
    given = {ALIASES.get(k, k): v for k, v in given.items()}
    blank = self.parts.prepare.blank(self.parts.data.size)
    known = LatentDiffusionPipeline._task_keys(self)
    unknown = [k for k in given if k not in known]
    if unknown:
      raise UserError(
        f'{unknown[0]!r} is not an input of task '
        f'{self.config.task["name"]!r}; it takes: '
        f'{", ".join(sorted(known)) or "none"}.'
      )
    arrays = self.parts.prepare.arrays(given)
    rows = {}
    for key, value in arrays.items():
      value = np.asarray(value)
      if value.ndim == np.ndim(blank[key]):
        value = np.broadcast_to(value, (num, *value.shape))
      if value.shape[0] == 1:
        value = np.broadcast_to(value, (num, *value.shape[1:]))
      if value.shape[0] != num:
        raise UserError(
          f'{value.shape[0]} values of {key!r} for num={num} images; give '
          'one, or one for each.'
        )
      rows[key] = value
    return rows


def of_each(guides: Sequence[Guide], num: int) -> tuple[Guide, ...]:
  """Guides with a row for each of `num` images; raises UserError."""

  def rows(key, x):
    x = np.asarray(x)
    if len(x) not in (1, num):
      raise UserError(
        f'{len(x)} values of {key!r} in a guide for num={num} images; give '
        'one, or one for each.'
      )
    return np.broadcast_to(x, (num, *x.shape[1:]))

  return tuple(
    guide.replace(rows={k: rows(k, x) for k, x in guide.rows.items()})
    for guide in guides
  )


def on(mesh: Mesh, x: Any) -> bool:
  """Whether x already lies on the mesh's devices, split or repeated."""
  return isinstance(x, jax.Array) and x.sharding.device_set == set(
    mesh.devices.flat
  )


def to_uint8(x: Array) -> Array:
  """[-1, 1] float -> [0, 255] uint8, rounded."""
  return jnp.round((jnp.clip(x, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
