"""How well images come back: of a first stage, or of two sets pair by pair."""

import functools
from collections.abc import Callable, Collection, Mapping

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax.data import images as pixels
from ldm_jax.evaluation import pairs
from ldm_jax.evaluation.codebook import Usage
from ldm_jax.evaluation.features import Network
from ldm_jax.evaluation.frechet import frechet_distance
from ldm_jax.evaluation.image_sets import ImageSet
from ldm_jax.evaluation.moments import Moments
from ldm_jax.nn import conv
from ldm_jax.types import Params, UserError


def of_run(
  names: Collection[str],
  images: ImageSet,
  reconstruct: Callable,
  batch_size: int,
  networks: Mapping[str, Network],
  lpips_params: Params | None = None,
  num_codes: int = 0,
) -> dict[str, float]:
  """Metrics of reconstructions of `images`, which are read once.

  Args:
    names: of pairs.NAMES, of `networks`, and 'codebook'.
    images: held-out images.
    reconstruct: [B H W 3] in [-1, 1] -> (the same, codes or None).
    batch_size: images at once.
    networks: {name of a Fréchet distance: the network it is taken in}.
    lpips_params: of LPIPS, if it is among the names.
    num_codes: size of the codebook; 0 where there is none.

  Raises:
    UserError: a codebook is asked for where there is none.
  """
  check_run(names, num_codes)
  usage = Usage(max(num_codes, 1))
  sides: dict[str, list[Moments | None]] = {n: [None, None] for n in networks}

  def batches():
    for batch in images.batches(batch_size):
      count = len(batch)
      x = np.stack([*batch, *[batch[-1]] * (batch_size - count)])
      y, codes = reconstruct(pixels.to_float(x))
      y = pixels.to_uint8(y)
      if 'codebook' in names:
        usage.add(codes[:count])
      for name, network in networks.items():
        for i, side in enumerate((x, y)):
          rows = np.asarray(network(side)['pool'])[:count]
          sides[name][i] = sides[name][i] or Moments(rows.shape[1])
          sides[name][i].add(rows)
      yield x[:count], y[:count]

  named = [name for name in names if name in pairs.NAMES]
  result = pairs.compute(named, batches(), lpips_params)
  for name, (a, b) in sides.items():
    result[name] = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
  return result | (usage.result() if 'codebook' in names else {})


def check_run(names: Collection[str], num_codes: int) -> None:
  """Raises UserError where a first stage has not what is asked for."""
  if 'codebook' in names and not num_codes:
    raise UserError('--metrics=codebook needs a VQ first stage.')


def reconstructor(first_stage: nn.Module) -> Callable:
  """params -> (images [B H W 3] in [-1, 1] -> (the same again, codes or None)).

  Compiled once; images are split over the devices of this process. KL gives
  its mode.
  """
  mesh = Mesh(np.asarray(jax.local_devices()), ('images',))
  split = NamedSharding(mesh, PartitionSpec('images'))
  everywhere = NamedSharding(mesh, PartitionSpec())

  @conv.jit
  def again(params, images):
    found, aux = first_stage.apply({'params': params}, images)
    return found, aux.get('indices')

  def run(params, images):
    count = len(images)
    images = np.concatenate([images, *[images[-1:]] * (-count % mesh.size)])
    found, indices = again(params, jax.device_put(images, split))
    indices = None if indices is None else np.asarray(indices)[:count]
    return np.asarray(found)[:count], indices

  return lambda params: functools.partial(
    run, jax.device_put(params, everywhere)
  )


def of_sets(
  names: Collection[str],
  originals: ImageSet,
  copies: ImageSet,
  batch_size: int,
  lpips_params: Params | None = None,
) -> dict[str, float]:
  """Metrics of two sets whose images belong together in their order."""
  check_sets(names, originals, copies)
  batches = zip(originals.batches(batch_size), copies.batches(batch_size))
  return pairs.compute(names, map(_stacked, batches), lpips_params)


def check_sets(
  names: Collection[str], originals: ImageSet, copies: ImageSet
) -> None:
  """Raises UserError where two sets cannot be compared pair by pair."""
  others = [name for name in names if name not in pairs.NAMES]
  if others:
    raise UserError(f'--metrics={others[0]} needs --workdir, a run.')
  if originals.left_out:
    raise UserError(
      f'{", ".join(names)} compare pairs, and of the references '
      f'{originals.left_out} cannot be used, so that the others would stand '
      f'beside the wrong samples. The first: {originals.why}'
    )
  if originals.count != copies.count:
    raise UserError(
      f'{", ".join(names)} compare pairs, and there are {copies.count} samples '
      f'and {originals.count} references.'
    )


def _stacked(pair) -> tuple[np.ndarray, np.ndarray]:
  shapes = {image.shape for side in pair for image in side}
  if len(shapes) > 1:
    raise UserError(f'Pairs must be of one size, and there are {shapes}.')
  return tuple(np.stack(side) for side in pair)
