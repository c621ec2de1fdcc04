"""Feature networks run over many images, on every device."""

import collections
import dataclasses
import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax.evaluation import resize
from ldm_jax.nn import conv
from ldm_jax.types import Array, Params, UserError


@dataclasses.dataclass(frozen=True)
class Network:
  """A function of images, with its weights.

  Attributes:
    name: as reports call it.
    params: its weights.
    apply: (params, images float32 [B H W 3] in 0..255) -> {name: [B D]}.
    size: side that images are brought to first, as TensorFlow 1 resizes; 0
      leaves them as they are.
    about: what a report says of it.
  """

  name: str
  params: Params
  apply: Callable[[Params, Array], Mapping[str, Array]]
  size: int = 0
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def digest(self) -> str:
    """Of the name, the size and every weight."""
    found = hashlib.sha256(f'{self.name} {self.size}'.encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
      leaf = np.ascontiguousarray(leaf)
      name = jax.tree_util.keystr(path)
      found.update(f'{name} {leaf.dtype} {leaf.shape}'.encode())
      found.update(leaf.tobytes())
    return found.hexdigest()

  @functools.cached_property
  def _mesh(self) -> Mesh:
    return Mesh(np.asarray(jax.local_devices()), ('images',))

  @functools.cached_property
  def _placed(self) -> Params:
    return jax.device_put(
      self.params, NamedSharding(self._mesh, PartitionSpec())
    )

  @functools.cached_property
  def _run(self):
    def run(params, images):
      # A GPU would otherwise multiply with ten bits of mantissa.
      with jax.default_matmul_precision('highest'):
        return self.apply(params, images.astype(jnp.float32))

    return conv.jit(run)

  def __call__(self, images: Sequence[np.ndarray]) -> Mapping[str, Array]:
    """Starts a batch: uint8 images [H W 3], of any sizes if `size` is set.

    The rows are padded to fill the devices; callers cut them.
    """
    split = NamedSharding(self._mesh, PartitionSpec('images'))
    count = math.ceil(len(images) / self._mesh.size) * self._mesh.size
    images = [*images, *[images[-1]] * (count - len(images))]
    if len({image.shape for image in images}) == 1:
      batch = jax.device_put(np.stack(images), split)
      if self.size:
        batch = resize.bilinear_tf1(batch, (self.size, self.size))
    elif self.size:
      each = [resize.bilinear_tf1(x[None], (self.size,) * 2) for x in images]
      batch = jax.device_put(jnp.concatenate(each), split)
    else:
      self.check_sizes(images)
    return self._run(self._placed, batch)

  def check_sizes(self, images: Iterable[np.ndarray]) -> None:
    """Raises UserError where they have several, and it takes but one."""
    shapes = sorted({image.shape[:2] for image in images})
    if len(shapes) > 1 and not self.size:
      raise UserError(
        f'A {self.name} takes images of one size, and these have several: '
        f'{", ".join(f"{h}x{w}" for h, w in shapes[:4])}. Bring them to one, '
        'or name --metrics without random_frechet and neighbours.'
      )


@dataclasses.dataclass
class Pace:
  """How long extraction took, and how much of that the network itself."""

  images: int = 0
  seconds: float = 0.0
  in_network: float = 0.0

  def about(self) -> dict[str, float]:
    """Rates; the share is of the time in which no network could have run."""
    seconds = max(self.seconds, 1e-9)
    return {
      'images': self.images,
      'images_per_second': self.images / seconds,
      'share_outside_network': max(0.0, 1 - self.in_network / seconds),
    }


def stream(
  network: Network,
  batches: Iterable[Sequence[np.ndarray]],
  pace: Pace | None = None,
) -> Iterator[dict[str, np.ndarray]]:
  """Features of each batch of uint8 images; all of one size but the last.

  While the devices compute one batch, the next is read.
  """
  batches, pace = iter(batches), pace or Pace()
  waiting = collections.deque()
  size, each = 0, None
  first = time.monotonic()
  for images in batches:
    size = size or len(images)
    filled = [*images, *[images[-1]] * (size - len(images))]
    waiting.append((len(images), network(filled)))
    if pace.images == 0 or each is None:
      # The first batch compiles, and the second tells what one takes.
      jax.block_until_ready(waiting[-1][1])
      start = time.monotonic()
      jax.block_until_ready(network(filled))
      each = time.monotonic() - start
      first = time.monotonic() - each
    pace.images += len(images)
    if len(waiting) > 1:
      yield _fetch(*waiting.popleft())
    pace.seconds = time.monotonic() - first
    pace.in_network += each
  while waiting:
    yield _fetch(*waiting.popleft())
    pace.seconds = time.monotonic() - first


def _fetch(count, features) -> dict[str, np.ndarray]:
  return {k: np.asarray(v)[:count] for k, v in features.items()}


def extract(
  network: Network, batches: Iterable[Sequence[np.ndarray]]
) -> dict[str, np.ndarray]:
  """Features of all images: {name: float32 [N D]}."""
  found = list(stream(network, batches))
  return {k: np.concatenate([f[k] for f in found]) for k in found[0]}
