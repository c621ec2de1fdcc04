"""Fills a latent cache: every image of a run's data, encoded once.

What data/latents.py keeps is mean and log-variance, so training still draws
from the posterior, with the noise that it would draw without the cache.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ldm_jax.data import images, latents, workers
from ldm_jax.first_stage.codec import CachedCodec
from ldm_jax.nn import conv
from ldm_jax.training import parallel, processes
from ldm_jax.training.items import named_leaves
from ldm_jax.training.workdir import FREE
from ldm_jax.types import Params

_BATCH = 32  # images at once and device


def open_cache(
  parts,
  source,
  params: Params,
  beat: Callable[[int], None] = lambda done: None,
  stop: Callable[[int], bool] = lambda number: False,
) -> latents.Latents | None:
  """The cache `parts.config.latent_cache` as a source, filled where it is not.

  Process p of P writes shards p, p + P and so on: every process may see another
  disk for a while. They go from one to the next together.

  Args:
    parts: of the run.
    source: the images.
    params: of the first stage, on every device of the run.
    beat: called with the number of examples that are done.
    stop: whether to leave after each process's shard of a number; the same in
      all of them. Then None is returned, and what is written stays.

  Raises:
    UserError: the folder holds latents of other images or weights.
  """
  folder, spec = parts.config.latent_cache, parts.data
  shape = (2 if spec.flip else 1, *parts.cached_shape)
  params = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), params)
  encoder = digest(parts.first_stage, params)
  about = latents.describe(source, spec, encoder, shape)
  processes.by_first(functools.partial(latents.claim, folder, about))
  latents.claim(folder, about, write=False)
  wanted = latents.shards(folder, len(source))
  mine = wanted[jax.process_index() :: jax.process_count()]
  missing = [job for job in mine if not os.path.exists(job[0])]
  if missing:
    count = sum(len(indices) for _, indices in missing)
    print(f'Encoding {count:,} examples into {folder}.', flush=True)
    encode = _encoder(parts, params)
    versions = latents.Versions(source, spec)
  for number in range(math.ceil(len(wanted) / jax.process_count())):
    for path, indices in mine[number : number + 1]:
      if (path, indices) in missing:
        latents.write_shard(path, _encoded(encode, versions, indices))
        beat(indices.stop)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('ldm_latent_cache')
    if stop(number):
      return None
  return latents.Latents(folder, about)


def digest(first_stage: nn.Module, params: Params) -> str:
  """Of what the module is, its dtype too, and the weights' names and bits."""
  found = hashlib.blake2b(digest_size=16)
  for field in dataclasses.fields(first_stage):
    if field.name not in ('parent', 'name', *FREE):
      value = getattr(first_stage, field.name)
      value = jnp.dtype(value).name if field.name == 'dtype' else value
      found.update(f'{field.name}={value}\n'.encode())
  for name, leaf in sorted(named_leaves(params).items()):
    found.update(name.encode())
    found.update(np.ascontiguousarray(leaf).tobytes())
  return found.hexdigest()


def _encoder(parts, params):
  """uint8 [N H W 3] -> float32 [N h w c], on this host's devices."""
  mesh = parallel.make_mesh(devices=jax.local_devices())
  codec = CachedCodec(parts.first_stage)
  params = jax.device_put(params, parallel.replicated(mesh))
  moments = conv.jit(codec.moments)
  size = _BATCH * mesh.size

  def encode(pixels: np.ndarray) -> np.ndarray:
    found = []
    for start in range(0, len(pixels), size):
      # Always as many, so that nothing depends on what is beside an image.
      part = pixels[start : start + size]
      padded = np.pad(part, [(0, size - len(part))] + [(0, 0)] * 3, 'edge')
      batch = jax.device_put(
        images.to_float(padded), parallel.batch_sharding(mesh)
      )
      found.append(np.asarray(moments(params, batch))[: len(part)])
    return np.concatenate(found)

  return encode


def _encoded(encode, versions, indices: range):
  """Yields (labels, float32 [versions h w c]) of every index, in order."""
  step = 256
  with concurrent.futures.ThreadPoolExecutor(workers.num_threads()) as pool:
    read = functools.partial(pool.map, versions)
    for start in range(indices.start, indices.stop, step):
      rows = list(read(range(start, min(start + step, indices.stop))))
      labels, pixels = zip(*rows)
      count = pixels[0].shape[0]
      moments = encode(np.concatenate(pixels))
      yield from zip(labels, moments.reshape(-1, count, *moments.shape[1:]))
