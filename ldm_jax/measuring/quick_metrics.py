"""A few cheap numbers while training: held-out data, averaged weights."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ldm_jax import run as runs
from ldm_jax.evaluation import (
  features,
  first_stage_metrics,
  image_sets,
  moments,
  random_features,
  scene_accuracy,
)
from ldm_jax.evaluation.frechet import frechet_distance
from ldm_jax.measuring import generate
from ldm_jax.training import parallel
from ldm_jax.types import UserError

# Images that the samples are compared with; they are read once.
_REFERENCE = 2000
_BATCH = 64
# Pixels on a side that SSIM's window and the random network take at least.
_SMALLEST = 11
# Of what is found, not measured: they do not change.
_SETTINGS = ('pairs', 'codebook_size')


class QuickMetrics:
  """Of `num` samples, or of as many reconstructions, with fixed seeds.

  The distance is the random-feature one of evaluate.py: it needs no weights,
  and says whether a run still gets better. It is not FID.
  """

  def __init__(self, run: runs.Run, num: int):
    self._run, self._num = run, num
    if run.config.eval_every and run.parts.classifier is None:
      count = self._held_out.count
      if count < 2:
        raise UserError(
          f'eval_every={run.config.eval_every} compares with the images of '
          f'data.eval_split={run.parts.data.eval_split!r}, of which there is '
          f'{count}; a distance needs 2. Set eval_every=0 or hold out more.'
        )

  def measure(
    self, state: Any, held: Any, beat: Callable[[], None] = lambda: None
  ) -> dict[str, float]:
    """{'eval_...': value}; nothing for stages that draw no images.

    `beat` is called whenever a batch has been drawn.
    """
    if self._run.parts.sampling is not None:
      found = self._of_samples(state, held, beat)
    elif self._run.parts.config.stage == 'first_stage':
      found = self._of_reconstructions(state)
    else:
      found = {}
    return {f'eval_{name}': value for name, value in found.items()}

  @functools.cached_property
  def _network(self) -> features.Network:
    return random_features.network()

  @functools.cached_property
  def _held_out(self) -> image_sets.ImageSet:
    spec = self._run.parts.data
    return image_sets.of_source(self._run.eval_source, spec, spec.eval_split)

  @functools.cached_property
  def _reference(self) -> moments.Moments:
    batches = self._held_out.first(_REFERENCE).batches(_BATCH)
    found = features.stream(self._network, batches)
    return moments.of(f['pool'] for f in found)

  def _of_samples(self, state, held, beat) -> dict[str, float]:
    ldm = self._run.sampler(state, held)
    told, inputs = generate.Conditions(ldm, '', 0).of(0, self._num)
    settings = dataclasses.asdict(self._run.parts.sampling)
    settings |= {'num': self._num, 'batch_size': _BATCH}
    batches = []
    for batch in ldm.sample_batches(**settings, **inputs):
      batches.append(batch)
      beat()
    numbers = {}
    if self._run.parts.data.size >= _SMALLEST:
      found = features.stream(self._network, batches)
      a, b = moments.of(f['pool'] for f in found), self._reference
      numbers['random_frechet'] = frechet_distance(
        a.mean, a.covariance, b.mean, b.covariance
      )
    if self._run.parts.data.source == 'scenes' and 'text' in told:
      scores = scene_accuracy.scene_accuracy(
        np.concatenate(batches), told['text']
      )
      numbers |= {f'scene_{k}': v for k, v in scores.items()}
    return numbers

  def _of_reconstructions(self, state) -> dict[str, float]:
    section = self._run.parts.config.first_stage
    names = ['psnr']
    if self._run.parts.data.size >= _SMALLEST:
      names += ['random_rfrechet', 'ssim']
    names += ['codebook'] if section['name'] == 'vq' else []
    found = first_stage_metrics.of_run(
      names,
      self._held_out.first(self._num),
      self._reconstruct(jax.tree.map(parallel.fetch, state.params)),
      _BATCH,
      {'random_rfrechet': self._network},
      num_codes=section.get('num_codes', 0),
    )
    return {k: v for k, v in found.items() if k not in _SETTINGS}

  @functools.cached_property
  def _reconstruct(self):
    first_stage = self._run.parts.first_stage
    return first_stage_metrics.reconstructor(first_stage)
