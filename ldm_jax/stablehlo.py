"""A whole sampler as one StableHLO file that needs jax and nothing else.

`jax.export` lowers what `pipeline.sample` compiles, weights inside, for CPUs,
NVIDIA GPUs and TPUs at once. Beside it lies what its arrays mean.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ldm_jax.data import tokenize
from ldm_jax.diffusion import sampling
from ldm_jax.diffusion.guidance import Guidance
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.diffusion.settings import Plan, Settings
from ldm_jax.nn import conv, target
from ldm_jax.pipeline import LatentDiffusionPipeline
from ldm_jax.types import Array, UserError

PLATFORMS = ('cpu', 'cuda', 'tpu')
# What a file of jax.export can hold: its container counts in 31 bits.
MOST_BYTES = 2**31 - 2**24

_MEANINGS = {
  'seed': 'decides all noise',
  'number': 'which images of the seed: one number for each image of the batch',
  'guidance': 'the classifier-free scale; 1 is the conditional model',
  'eta': '0 deterministic, 1 ancestral',
  'tokens': 'token ids, padded to their length',
  'label': 'the class',
  'image': 'RGB in [-1, 1]',
  'low_res': 'the small image, RGB in [-1, 1]',
  'mask': '1 where the image is to be filled, else 0',
  'segmentation': 'class indices; -1 is no class',
  'embeddings': 'vectors of what was found',
}


def write(
  ldm: LatentDiffusionPipeline,
  path: str,
  settings: Settings,
  size: tuple[int, int] | None = None,
  batch_size: int = 0,
) -> dict[str, Any]:
  """Writes the artifact, and `path`.json, which it returns.

  Args:
    ldm: a diffusion model's run.
    path: the file to write.
    settings: steps, sampler and spacing are fixed in the file; guidance and
      eta are its inputs, and those given here their usual values.
    size: (height, width) of the images; those of training unless given.
    batch_size: of the file's program; 0 is any.

  Raises:
    UserError: a first stage alone, an impossible size, or weights that are too
      large for one file.
  """
  ldm.parts.check_draws()
  if batch_size < 0:
    raise UserError(f'--batch={batch_size} must be 1 or more, or 0 for any.')
  ldm = _portable(ldm)
  _check_bytes(ldm.program[1])
  height, width = size or (ldm.parts.data.size,) * 2
  shape = ldm.parts.sampled_shape(height, width)
  specs, about = _inputs(ldm, settings, (height, width), batch_size)
  with target.anywhere():
    exported = export.export(
      jax.jit(_sampler(ldm, settings, shape)), platforms=PLATFORMS
    )(specs)
  with open(path, 'wb') as f:
    f.write(exported.serialize())
  about = {
    'inputs': about,
    'output': {
      'shape': ['batch' if not batch_size else batch_size, height, width, 3],
      'dtype': 'uint8',
      'meaning': 'RGB images',
    },
    'platforms': PLATFORMS,
    'fixed': {
      'steps': settings.steps,
      'sampler': settings.sampler,
      'spacing': settings.spacing or "the sampler's own",
    },
    # Convolutions as the pipeline has them there: faster, and the same bits,
    # but for large ones, which the pipeline does Winograd's way (nn/conv.py).
    'compiler_options': {'cpu': conv.cpu_compiler_options()},
    'tokenizer': _tokenizer(ldm.config.task),
    'jax': jax.__version__,
  }
  with open(f'{path}.json', 'w', encoding='utf-8') as f:
    json.dump(about, f, indent=1)
  return about


def _portable(ldm: LatentDiffusionPipeline) -> LatentDiffusionPipeline:
  """The same networks, with the attention that every platform has."""

  def on_xla(module):
    known = hasattr(module, 'attention_backend')
    return module.clone(attention_backend='xla') if known else module

  parts, model = ldm.parts, ldm.parts.model
  parts = dataclasses.replace(
    parts,
    first_stage=on_xla(parts.first_stage),
    model=model.clone(
      unet=on_xla(model.unet), conditioner=on_xla(model.conditioner)
    ),
  )
  return LatentDiffusionPipeline(parts, ldm.params, ldm.scale_factor, ldm.mesh)


def _check_bytes(weights: Any):
  size = sum(x.nbytes for x in jax.tree.leaves(weights))
  if size > MOST_BYTES:
    raise UserError(
      f'The weights are {size / 2**30:.1f} GiB, and a file of jax.export holds '
      'less than 2; --format=safetensors has no such limit.'
    )


def _inputs(ldm, settings: Settings, size: tuple[int, int], batch_size: int):
  """(ShapeDtypeStructs by name, the same in words) of what goes in."""
  examples = {'number': np.int32(0), **_examples(ldm, size)}
  scalars = {'seed': np.uint32(0)}
  if ldm.parts.prepare.blank(ldm.parts.data.size) and ldm.parts.has_null:
    scalars['guidance'] = np.float32(settings.guidance)
  if settings.sampler == 'ddim':
    scalars['eta'] = np.float32(settings.eta)
  (batch,) = (batch_size,) if batch_size else export.symbolic_shape('batch')
  specs = {
    **{k: jax.ShapeDtypeStruct((), x.dtype) for k, x in scalars.items()},
    **{
      k: jax.ShapeDtypeStruct((batch, *x.shape), x.dtype)
      for k, x in examples.items()
    },
  }
  about = {
    name: {
      'shape': [d if isinstance(d, int) else str(d) for d in spec.shape],
      'dtype': str(spec.dtype),
      'meaning': _MEANINGS.get(name, ''),
    }
    for name, spec in specs.items()
  }
  for name, usual in scalars.items():
    about[name]['usual'] = usual.item()
  return specs, about


def _examples(ldm, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """One example's arrays, of images of that size."""
  side, blank = ldm.parts.data.size, ldm.parts.prepare.blank
  found = {}
  for name, x in blank(side).items():
    x = np.asarray(x)
    # The sides of an image are what grows with it.
    twice, sides = np.shape(blank(2 * side)[name]), iter(size)
    shape = (
      a if a == b else next(sides) * a // side
      for a, b in zip(x.shape, twice, strict=True)
    )
    found[name] = np.zeros(tuple(shape), x.dtype)
  return found


def _sampler(ldm, settings: Settings, shape: tuple[int, int, int]):
  """inputs -> uint8 images: a function to be jitted."""
  draw, weights = ldm.program
  # Of no device: the file is not for as many as are here.
  weights = jax.tree.map(np.asarray, weights)
  table = settings.table(ldm.parts.schedule)

  def sampler(weights, inputs):
    inputs = dict(inputs)
    scale = inputs.pop('guidance', None)
    keys = sampling.numbered_keys(inputs.pop('seed'), inputs['number'])
    rows = table
    if 'eta' in inputs:
      eta = inputs.pop('eta')
      rows = with_eta(ldm.parts.schedule, settings, eta)
    # In the pipeline these are arguments; here the compiler would fold what
    # it can of them, and round otherwise.
    weights, rows, keys = jax.lax.optimization_barrier((weights, rows, keys))
    run = lambda guided: draw(
      *weights, Plan(rows, guided), keys, inputs, shape=shape
    )
    if scale is None:
      return run(None)
    # Two walks, as in the pipeline: without guidance nothing is doubled.
    return jax.lax.cond(
      scale == 1,
      lambda: run(None),
      lambda: run(Guidance(scale, rescale=0 * scale)),
    )

  # The weights enter once, as constants of the outermost function.
  return lambda inputs: sampler(weights, inputs)


def with_eta(
  schedule: Schedule, settings: Settings, eta: Array
) -> sampling.Steps:
  """DDIM's table for a traced eta; for 0 and 1 the very numbers of the host's.

  c_eps falls from its value at eta 0 by n - sqrt(n^2 - eta^2 s^2), with n the
  noise level that a step lands on and s the noise that it adds at eta 1.
  """
  still, lively = (
    dataclasses.replace(settings, eta=e).table(schedule) for e in (0.0, 1.0)
  )
  fall = (still.mix - lively.mix)[:, 0, 1]
  s, falls = lively.noise, fall > 0
  n = (np.divide(s**2, fall, out=np.zeros_like(s), where=falls) + fall) / 2
  share = np.divide(s, n, out=np.zeros_like(s), where=falls) ** 2
  left = jnp.sqrt(jnp.maximum(1 - eta**2 * jnp.float32(share), 0))
  fall = jnp.float32(n * share) * eta**2 / (1 + left)
  mix = jnp.asarray(still.mix, jnp.float32).at[:, 0, 1].add(-fall)
  return sampling.Steps(
    t=still.t,
    mix=jnp.where(eta == 1, jnp.asarray(lively.mix, jnp.float32), mix),
    noise=jnp.asarray(s, jnp.float32) * eta,
  )


def _tokenizer(task: Mapping[str, Any]) -> dict[str, str]:
  """The text of a text task's tokenizer files, by name."""
  return {
    os.path.basename(name): content.decode('utf-8')
    for name, content in tokenize.files_of(task).items()
  }
