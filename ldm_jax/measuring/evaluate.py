"""One evaluation from end to end: numbers, pictures, a report."""

import dataclasses
import functools
import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

import ldm_jax
from ldm_jax.data import panels
from ldm_jax.evaluation import report
from ldm_jax.measuring import numbers
from ldm_jax.measuring.options import RECONSTRUCTION, Options
from ldm_jax.measuring.session import Session
from ldm_jax.training import processes

_SHOWN = 64  # Samples in the report's picture.


def run(options: Options, say=print) -> dict[str, Any]:
  """Measures, and writes the report; returns it, in the first process."""
  session = Session(options, say)
  numbers.check(session, options.settings)
  begin = time.time()
  of_samples = [name for name in session.metrics if name not in RECONSTRUCTION]
  if of_samples:
    _ = session.samples  # Drawn by all processes; the first one measures.
  measure = functools.partial(_measured, session, of_samples, begin)
  return processes.by_first(measure) or {}


def _measured(
  session: Session, of_samples: Sequence[str], begin: float
) -> dict[str, Any]:
  options, say = session.options, session.say
  metrics, pictures = {}, {}
  if of_samples:
    samples = session.samples
    metrics |= numbers.sample_numbers(session, samples)
    if 'neighbours' in of_samples:
      pictures |= numbers.neighbour_picture(session)
    shown = samples.take(_SHOWN)
    if len({image.shape for image in shown}) == 1:
      pictures |= {'Samples': panels.grid(shown)}
  metrics |= numbers.reconstruction_numbers(session)
  content = {
    'metrics': metrics,
    'notes': notes(session, metrics),
    **about(session),
    'seconds': round(time.time() - begin, 1),
  }
  charts = {}
  if options.workdir:
    # Written twice: so that this step is in the charts too.
    report.write(session.out, title(options), content)
    charts = report.training_charts(options.workdir)
  page = report.write(session.out, title(options), content, pictures, charts)
  for name, value in metrics.items():
    say(f'{report.title_of(name)}: {value:.5g}')
  say(f'Report: {page}')
  return content


def title(options: Options) -> str:
  return f'Evaluation of {options.samples or options.workdir}'


def notes(session: Session, metrics: Mapping[str, float]) -> list[str]:
  """What a reader must know to compare the numbers."""
  found = session.left_out
  if any(name.startswith('random_') for name in metrics):
    found.append(
      'The random-feature Fréchet distance is taken in a fixed random '
      'convolutional network, because it needs no weights. It ranks images '
      'of one data set; it is not FID and must not be compared with one.'
    )
  options = session.options  # A sweep has several sets, all as large.
  count = session.samples.count if options.samples else options.num
  if 'fid' in metrics and count < 50_000:
    found.append(
      f'FID of {count} images is biased upward; the paper uses 50,000.'
    )
  if options.inception and not session.inception.about['is_the_published_file']:
    found.append('Inception’s weights are not those of the published file.')
  return found


def about(session: Session) -> dict[str, Any]:
  """Everything that the numbers depend on."""
  options, found = session.options, {}
  if options.workdir:
    found |= {'workdir': options.workdir, 'step': session.step}
  opened = session.__dict__  # Of cached properties: those that were used.
  for name in ('samples', 'reference'):
    if name in opened:
      images = opened[name]
      found[name] = {'name': images.name, 'count': images.count}
  if 'samples' in opened and not options.samples:
    found['drawn_with'] = {
      **options.settings.about(),
      'seed': options.seed,
      'conditions': session.conditions.split or 'none',
    }
    if options.masks:
      found['masks'] = options.masks
  for name in ('inception', 'random'):
    if name in opened:
      network = opened[name]
      found[f'{name}_network'] = {
        'name': network.name,
        'digest': network.digest[:16],
        'resize': f'{network.size}, bilinear as TensorFlow 1'
        if network.size
        else 'none',
        **network.about,
      }
  if 'inception' in opened:
    found['protocol'] = dataclasses.asdict(options.protocol)
  found['pace'] = session.pace
  found['versions'] = versions()
  return found


def versions() -> dict[str, str]:
  device = jax.devices()[0]
  return {
    'ldm_jax': ldm_jax.__version__,
    **{name: importlib.metadata.version(name)
       for name in ('jax', 'jaxlib', 'flax', 'numpy', 'scipy', 'pillow')},
    'python': platform.python_version(),
    'devices': f'{jax.device_count()} x {device.device_kind}',
  }  # fmt: skip
