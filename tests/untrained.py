"""Pipelines whose weights are noise: what is asked is who gets which arrays."""

import functools
import json

import jax
import numpy as np
from jax.sharding import Mesh

from ldm_jax import build
from ldm_jax.pipeline import LatentDiffusionPipeline
from tests import tiny


def pipeline(**changes) -> LatentDiffusionPipeline:
  """A tiny diffusion run with nested changes, on one device.

  Kept: the same changes give the same pipeline, compiled functions and all.
  """
  return _pipeline(json.dumps(changes))


@functools.cache
def _pipeline(changes: str) -> LatentDiffusionPipeline:
  changes = json.loads(changes)
  config = tiny.diffusion()
  config['task'] = changes.pop('task', config['task'])
  parts = build.parts(tiny.merged(config, changes))

  def init(rng):
    encode = lambda image: np.zeros((1, *parts.latent_shape), np.float32)
    z, t = np.zeros((1, *parts.latent_shape), np.float32), np.zeros(1, int)
    model = parts.model.init(rng, z, t, parts.blank_batch(1), encode)['params']
    return {
      'first_stage': build.init_first_stage(parts, rng),
      'model': model,
      'ema': model['unet'],
    }

  # Drawn in numpy: initialising takes longer to compile than all else here.
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: 0.1 + 0.1 * rng.standard_normal(x.shape, np.float32),
    jax.eval_shape(init, jax.random.key(0)),
  )
  mesh = Mesh(np.asarray(jax.local_devices()[:1]), ('data',))
  return LatentDiffusionPipeline(parts, params, 1.0, mesh)


def unconditional(**changes) -> LatentDiffusionPipeline:
  unet = {'attention': 'self', **changes.pop('unet', {})}
  changes = {'sampling': {'guidance': 1.0}, 'unet': unet, **changes}
  return pipeline(task={'name': 'unconditional'}, **changes)
