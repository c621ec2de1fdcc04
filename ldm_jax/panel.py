"""The pictures of a run: fixed held-out examples, drawn again and again."""

import dataclasses
import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ldm_jax.data import panels
from ldm_jax.data import pipeline as data
from ldm_jax.evaluation import reconstruction
from ldm_jax.first_stage.codec import to_uint8
from ldm_jax.nn import conv
from ldm_jax.run import Run
from ldm_jax.training import classifier_step, parallel
from ldm_jax.types import Params

_GAP = 2  # pixels between the images of a panel


class Panel:
  """What is drawn of a state, and the scores that come with it."""

  def __init__(self, run: Run):
    self.run, parts = run, run.parts
    limit = parts.sampling.num if parts.sampling is not None else 64
    devices = run.mesh.size
    batch = next(
      data.eval_batches(
        run.eval_source,
        parts.prepare,
        parts.data,
        batch_size=math.ceil(limit / devices) * devices,
        limit=limit,
      )
    )
    self.count = int(np.sum(batch.pop('example_id') >= 0))
    self.batch = batch

  def draw(self, state: Any, held: Params):
    """(name, one picture uint8 [H W 3], scalars)."""
    if not self.run.parts.on_latents:
      return self._reconstructions(state)
    if self.run.parts.classifier is not None:
      return self._classified(state, held)
    return self._samples(state, held)

  def _samples(self, state, held):
    ldm = self.run.sampler(state, held)
    spec = dataclasses.asdict(self.run.parts.sampling) | {'num': self.count}
    blank = self.run.parts.prepare.blank(self.run.parts.data.size)
    inputs = {k: self.batch[k][: self.count] for k in blank}
    images = ldm.sample(**spec, **inputs)
    if not hasattr(ldm.parts.prepare, 'show'):
      return 'samples', panels.grid(images, gap=_GAP), {}
    shown = ldm.parts.prepare.show(inputs, images.shape[1:3])
    pairs = np.stack([shown, images], axis=1).reshape(-1, *images.shape[1:])
    return 'samples', panels.grid(pairs, 8, _GAP), {}

  @functools.cached_property
  def _classify(self):
    parts = self.run.parts
    return conv.jit(
      classifier_step.make_evaluation(
        parts.classifier, parts.codec, parts.schedule
      )
    )

  def _classified(self, state, held):
    """What it sees of the first examples, and how often it is right."""
    here = parallel.split(self.run.mesh, self.batch)
    right, seen = self._classify(state.params, held, here, self.run.rng)
    right, seen = (
      parallel.fetch(jnp.moveaxis(x, 1, 0))[: self.count] for x in (right, seen)
    )  # [N levels ...]
    scores = {
      f'eval_accuracy_{i}': float(score)
      for i, score in enumerate(right.mean(0))
    }
    seen = seen[:8].reshape(-1, *seen.shape[2:])
    return 'seen', panels.grid(to_uint8(seen), right.shape[1], _GAP), scores

  @functools.cached_property
  def _reconstruct(self):
    apply = self.run.parts.first_stage.apply
    return conv.jit(lambda params, image: apply({'params': params}, image)[0])

  def _reconstructions(self, state):
    """Pairs of image and reconstruction, the first 16, and their PSNR."""
    here = parallel.split(self.run.mesh, {'image': self.batch['image']})
    again = self._reconstruct(state.params, here['image'])
    image, again = (
      parallel.fetch(x)[: self.count] for x in (here['image'], again)
    )
    again = np.clip(again, -1.0, 1.0)
    psnr = np.mean(reconstruction.psnr(image, again))
    pairs = np.stack([image, again], axis=1)[:16]
    pairs = to_uint8(pairs.reshape(-1, *image.shape[1:]))
    picture = panels.grid(pairs, 8, _GAP)
    return 'reconstructions', picture, {'eval_psnr': float(psnr)}
