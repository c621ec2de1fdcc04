"""The numbers of an evaluation, and what they take, opened beforehand."""

import dataclasses
import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from ldm_jax import whole
from ldm_jax.diffusion.settings import Settings
from ldm_jax.evaluation import (
  first_stage_metrics,
  neighbours,
  npz,
  scene_accuracy,
  set_metrics,
  statistics,
)
from ldm_jax.evaluation.features import Network
from ldm_jax.evaluation.image_sets import ImageSet
from ldm_jax.evaluation.statistics import Statistics
from ldm_jax.measuring import generate
from ldm_jax.measuring.options import RECONSTRUCTION
from ldm_jax.measuring.session import Session
from ldm_jax.types import UserError

_NEIGHBOURS_OF = 8
# Images of a set whose sizes stand for all.
_PROBES = 64


def check(session: Session, *settings: Settings) -> None:
  """Opens all that the metrics take, so that nothing is drawn in vain.

  Stored references are read through, where no earlier evaluation did.

  Args:
    session: of which nothing has been drawn.
    *settings: those that the run's samples will be drawn with.

  Raises:
    UserError: something is missing, or cannot be drawn.
  """
  of_run = not session.options.samples
  asked = [name for name in session.metrics if name in RECONSTRUCTION]
  if len(asked) < len(session.metrics) and of_run:
    if session.is_first_stage:
      raise UserError(
        f'{session.options.workdir} is a first stage; of those there are '
        f'{", ".join(RECONSTRUCTION)}.'
      )
    for one in settings:
      generate.batch(session.ldm, one, session.conditions, 0, 1)
  if session.options.masks:
    _ = session.conditions
  if jax.process_index():
    return  # The first process measures.
  _check_places(session)
  if 'scene_accuracy' in session.metrics and session.captions is None:
    raise UserError(
      '--metrics=scene_accuracy needs a text run on scenes, or a gallery '
      'of one with its captions (sample.py --inputs=SPLIT).'
    )
  if 'lpips' in asked:
    _ = session.lpips_params
  # From here on images of references are read, which may take long.
  for table, network_of in _tables(session):
    _check_set(session, table, network_of)
  if 'neighbours' in session.metrics:
    _check_sizes(session, session.neighbour_network)
  if asked and of_run:
    first_stage_metrics.check_run(asked, session.num_codes)
    _ = session.originals, 'rfid' in asked and session.inception
  elif asked:
    first_stage_metrics.check_sets(asked, session.reference, session.samples)


def _check_places(session: Session) -> None:
  options = session.options
  whole.check_folder('--out', session.out)
  whole.check_folder('--cache', session.cache)
  if options.save_npz:
    whole.check_folder('--save_npz', pathlib.Path(options.save_npz).parent)
    if pathlib.Path(options.save_npz).is_dir():
      raise UserError(f'--save_npz={options.save_npz} is a folder, not a file.')
    if not {*session.metrics} & {*set_metrics.METRICS}:
      raise UserError(
        f"--save_npz={options.save_npz} holds Inception's statistics: it needs"
        f' --inception and one of --metrics={",".join(set_metrics.METRICS)}.'
      )


def _check_set(session: Session, table: Mapping, network_of) -> None:
  asked = {k: table[k] for k in session.metrics if k in table}
  if not asked:
    return
  wanted = set_metrics.needs(asked.values(), True)
  _, lacking = reference_moments(session, network_of(), wanted)
  reference = session.reference.count if any(lacking.values()) else 0
  if reference:
    _check_sizes(session, network_of())
  samples = session.options.num
  if session.options.samples:
    samples = session.samples.count
  for metric in asked.values():
    metric.check(samples, reference, session.options.protocol)


def _check_sizes(session: Session, network: Network) -> None:
  if network.size:
    return
  sets = [session.reference]
  if session.options.samples:
    sets.append(session.samples)
  for images in sets:
    some = np.linspace(0, images.count - 1, min(images.count, _PROBES))
    network.check_sizes(images.read(int(i)) for i in some)


def _tables(session: Session):
  """Metrics of sets, by the network that they are taken in."""
  return (
    (set_metrics.METRICS, lambda: session.inception),
    (set_metrics.RANDOM, lambda: session.random),
  )


def measured(
  session: Session,
  network: Network,
  images: ImageSet,
  wanted: Mapping,
  cached: bool,
) -> Statistics:
  """Moments and rows of a set; of references from the cache."""
  arguments = {**wanted, 'batch_size': session.options.batch_size}
  if not cached:
    found = statistics.measure(network, images, **arguments)
  else:
    found = statistics.measure_cached(
      network, images, session.cache, **arguments
    )
  if found.pace is not None:
    session.pace[f'{network.name} on {images.name}'] = found.pace.about()
  return found


def reference_statistics(
  session: Session, network: Network, wanted
) -> Statistics:
  """As the npz says of itself, or as measured."""
  given, lacking = reference_moments(session, network, wanted)
  found = Statistics(session.options.reference, 0, {}, {})
  if any(lacking.values()):
    found = measured(session, network, session.reference, lacking, True)
  return dataclasses.replace(found, moments={**found.moments, **given})


def reference_moments(
  session: Session, network: Network, wanted
) -> tuple[dict, dict]:
  """(what the reference's npz says of itself, what is left to measure)."""
  path, given = session.options.reference, {}
  if network.size and path.endswith('.npz'):
    given = npz.read_statistics(path)
  moments = tuple(m for m in wanted['moments'] if m not in given)
  return given, {'moments': moments, 'rows': wanted['rows']}


def set_numbers(
  session: Session, table: Mapping, network_of, samples: ImageSet
) -> dict:
  """The metrics of `table` that were asked for, of samples and reference."""
  asked = {k: table[k] for k in session.metrics if k in table}
  if not asked:
    return {}
  network, wanted = network_of(), set_metrics.needs(asked.values(), False)
  if session.options.save_npz and network.size:
    wanted['moments'] = tuple({*wanted['moments'], 'pool', 'spatial'})
  theirs = set_metrics.needs(asked.values(), True)
  reference = None
  if any(theirs.values()):
    reference = reference_statistics(session, network, theirs)
  ours = measured(session, network, samples, wanted, False)
  if session.options.save_npz and network.size:
    save_npz(session.options.save_npz, samples, ours)
  return set_metrics.compute(asked, ours, reference, session.options.protocol)


def sample_numbers(session: Session, samples: ImageSet) -> dict[str, float]:
  """Every metric of samples that was asked for."""
  found = {}
  for table, network_of in _tables(session):
    found |= set_numbers(session, table, network_of, samples)
  if 'scene_accuracy' in session.metrics:
    pixels = np.stack(samples.take(samples.count))
    count = min(len(pixels), len(session.captions))
    scores = scene_accuracy.scene_accuracy(
      pixels[:count], session.captions[:count]
    )
    found |= {f'scene_{k}': v for k, v in scores.items()}
  return found


def reconstruction_numbers(session: Session) -> dict[str, float]:
  """Metrics of the first stage, or of two folders pair by pair."""
  asked = [name for name in session.metrics if name in RECONSTRUCTION]
  if not asked:
    return {}
  params = session.lpips_params if 'lpips' in asked else None
  if session.options.samples:
    return first_stage_metrics.of_sets(
      asked,
      session.reference,
      session.samples,
      session.options.batch_size,
      params,
    )
  networks = {}
  if 'rfid' in asked:
    networks['rfid'] = session.inception
  if 'random_rfrechet' in asked:
    networks['random_rfrechet'] = session.random
  return first_stage_metrics.of_run(
    asked,
    session.originals,
    session.reconstruct,
    session.options.batch_size,
    networks,
    params,
    session.num_codes,
  )


def neighbour_picture(session: Session) -> dict[str, np.ndarray]:
  """A title, and samples beside their nearest images of the reference."""
  network = session.neighbour_network
  samples = session.samples.take(_NEIGHBOURS_OF)
  indices, _ = neighbours.nearest(
    network, samples, session.reference, batch_size=session.options.batch_size
  )
  title = (
    f'Samples (left) and their nearest images of {session.reference.name}, in '
    f'the features of a {network.name}'
  )
  return {title: neighbours.picture(samples, session.reference, indices)}


def save_npz(path: str, samples: ImageSet, found: Statistics) -> None:
  """The samples and their statistics, as the ADM evaluator reads them."""
  pixels = samples.take(samples.count)
  sizes = {image.shape[:2] for image in pixels}
  if len(sizes) > 1:
    raise UserError(
      f'--save_npz needs images of one size; {samples.name} has {len(sizes)}.'
    )
  npz.write(path, np.stack(pixels), found.moments)
