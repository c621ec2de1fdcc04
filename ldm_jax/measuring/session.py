"""One evaluation under way: its images, its networks, its numbers."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

import ldm_jax
from ldm_jax.diffusion.settings import Settings
from ldm_jax.evaluation import (
  first_stage_metrics,
  gallery,
  image_sets,
  inception,
  neighbours,
  npz,
  pairs,
  protocols,
  random_features,
  scene_accuracy,
  set_metrics,
  statistics,
  vgg,
)
from ldm_jax.evaluation.features import Network
from ldm_jax.evaluation.image_sets import ImageSet
from ldm_jax.evaluation.statistics import Statistics
from ldm_jax.first_stage import lpips
from ldm_jax.interop import files, graph_file
from ldm_jax.measuring import generate
from ldm_jax.splits import open_split
from ldm_jax.training import checkpoint, manifest
from ldm_jax.types import UserError

# Of the first stage of a run; the rest is of samples.
RECONSTRUCTION = (*pairs.NAMES, 'rfid', 'random_rfrechet', 'codebook')
NAMES = (
  *set_metrics.METRICS,
  *set_metrics.RANDOM,
  *RECONSTRUCTION,
  'scene_accuracy',
  'neighbours',
)
_NEIGHBOURS_OF = 8


@dataclasses.dataclass(frozen=True)
class Options:
  """What is asked for; '' and () mean that it was not said."""

  workdir: str = ''
  step: int | None = None
  samples: str = ''
  reference: str = ''
  metrics: tuple[str, ...] = ()
  num: int = 1000
  reference_num: int = 0  # 0: all
  inputs: str = ''
  batch_size: int = 50
  inception: str = ''
  vgg: str = ''
  lpips: str = ''
  cache: str = ''
  out: str = ''
  save_npz: str = ''
  settings: Settings = Settings()
  seed: int = 0
  protocol: protocols.Protocol = protocols.PROTOCOLS['torch-fidelity']

  def __post_init__(self):
    for name in self.metrics:
      if name not in NAMES:
        raise UserError(
          f'--metrics={name!r} is unknown; known: {", ".join(NAMES)}.'
        )
    if not self.workdir and not self.samples:
      raise UserError('Give --workdir, a run, or --samples, a folder.')
    if self.num < 1 or self.batch_size < 1 or self.reference_num < 0:
      raise UserError(
        f'--num={self.num}, --batch_size={self.batch_size}: at least 1.'
      )


class Session:
  """One evaluation: everything is opened when it is first needed."""

  def __init__(self, options: Options, say=print):
    self.options, self.say = options, say
    self.pace: dict[str, Any] = {}

  # What is there.

  @property
  def ldm(self):
    return self._run[1]

  @property
  def step(self) -> int:
    """Of the checkpoint that is measured."""
    return self._run[0]

  @functools.cached_property
  def _run(self):
    workdir = self.options.workdir
    if not workdir:
      raise UserError('This needs --workdir, a run.')
    if self.options.step is None:
      for step in reversed(checkpoint.Checkpoints(workdir).steps()):
        try:
          return step, ldm_jax.load(workdir, step)
        except manifest.Damaged as error:
          self.say(f'Checkpoint {step} is damaged ({error}).')
    return self.options.step or 0, ldm_jax.load(workdir, self.options.step)

  @property
  def is_first_stage(self) -> bool:
    """Whether there is a run that can only reconstruct."""
    return not self.options.samples and self.ldm.parts.model is None

  @functools.cached_property
  def out(self) -> pathlib.Path:
    if self.options.out:
      return pathlib.Path(self.options.out)
    if self.options.samples:
      folder = pathlib.Path(self.options.samples)
      return folder if folder.is_dir() else folder.parent
    name = f'step_{self.step:07d}'
    return pathlib.Path(self.options.workdir) / 'evaluation' / name

  @functools.cached_property
  def cache(self) -> str:
    return self.options.cache or image_sets.cache_folder()

  @functools.cached_property
  def metrics(self) -> tuple[str, ...]:
    """Those asked for, or those that what is there allows."""
    if self.options.metrics:
      return self.options.metrics
    if self.is_first_stage:
      found = ['psnr', 'ssim', 'random_rfrechet']
      found += ['rfid'] if self.options.inception else []
      found += ['lpips'] if self.options.lpips else []
      is_vq = self.ldm.config.first_stage['name'] == 'vq'
      return (*found, *(['codebook'] if is_vq else []))
    found = []
    if self.options.workdir or self.options.reference:
      with_inception = ['fid', 'is', 'pr'] if self.options.inception else []
      found += ['random_frechet', *with_inception, 'neighbours']
    if self.captions is not None:
      found.append('scene_accuracy')
    if not found:
      raise UserError(
        '--metrics is missing, and without --reference there is nothing to '
        f'measure; known: {", ".join(NAMES)}.'
      )
    return tuple(found)

  # Networks.

  @functools.cached_property
  def inception(self) -> Network:
    return inception.load(self.options.inception, read_weights)

  @functools.cached_property
  def random(self) -> Network:
    return random_features.network()

  @functools.cached_property
  def lpips_params(self):
    if not self.options.lpips:
      raise UserError(
        '--metrics=lpips needs --lpips=FOLDER with vgg16-397923af.pth '
        '(torchvision; sha256 begins with 397923af) and vgg.pth (linear heads '
        'of LPIPS 0.1, md5 d507d7349b931f0638a25a48a722f98a).'
      )
    return lpips.load(self.options.lpips, read_weights, '--lpips')

  @functools.cached_property
  def neighbour_network(self) -> Network:
    if self.options.vgg:
      return vgg.load(self.options.vgg, read_weights)
    name = self.random.name
    if self.options.metrics:
      self.say(f'--vgg is not given: neighbours are found in a {name}.')
    return self.random

  # Images.

  @functools.cached_property
  def conditions(self) -> generate.Conditions:
    options = self.options
    return generate.Conditions(self.ldm, options.inputs, options.seed)

  @functools.cached_property
  def samples(self) -> ImageSet:
    """The user's, or the run's own: then they are drawn first."""
    options = self.options
    if options.samples:
      return image_sets.open_path(options.samples, '--samples')
    return self.drawn(options.settings, self.out / 'samples')

  def drawn(self, settings: Settings, folder) -> ImageSet:
    """Images of the run, in shards; every process draws its part."""
    shards, pace = generate.draw(
      self.ldm,
      str(folder),
      self.options.num,
      settings,
      self.conditions,
      self.options.batch_size,
      self.say,
    )
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('drawn')
    self.pace['generation'] = pace
    return image_sets.of_shards(shards)

  @functools.cached_property
  def reference(self) -> ImageSet:
    """A path's images, or a split of the run's data; by default its train."""
    name = self.options.reference
    if name and pathlib.Path(name).exists():
      found = image_sets.open_path(name, '--reference')
    elif self.options.workdir:
      found = self.split(
        name or self.ldm.parts.data.train_split, '--reference', 'a path'
      )
    else:
      what = f'{name} does not exist' if name else 'missing'
      raise UserError(
        f'--reference is {what}; it takes a folder, an .npz, or with '
        '--workdir a split of its data.'
      )
    return found.first(self.options.reference_num or found.count)

  def split(self, name: str, option: str, other: str = '') -> ImageSet:
    spec = self.ldm.parts.data
    source = open_split(spec, name, option, other)
    return image_sets.of_source(source, spec, name)

  @functools.cached_property
  def originals(self) -> ImageSet:
    """What the run's first stage is to reconstruct."""
    split = self.options.inputs or self.ldm.parts.data.eval_split
    return self.split(split, '--inputs').first(self.options.num)

  @functools.cached_property
  def captions(self) -> list[str] | None:
    """What each sample should show, where scenes' reader can tell."""
    options = self.options
    if options.samples:
      if not (pathlib.Path(options.samples) / gallery.INDEX).exists():
        return None
      rows = gallery.read_index(options.samples)
      texts = [row.get('text') for row in rows]
    else:
      if self.ldm.parts.data.source != 'scenes' or self.is_first_stage:
        return None
      texts = self.conditions.of(0, options.num)[0].get('text')
    return None if not texts or None in texts else texts

  # Checks.

  def check(self, *settings: Settings) -> None:
    """Opens all that the metrics take, so that nothing is drawn in vain.

    Args:
      *settings: those that the run's samples will be drawn with.

    Raises:
      UserError: something is missing, or cannot be drawn.
    """
    of_run = not self.options.samples
    asked = [name for name in self.metrics if name in RECONSTRUCTION]
    if len(asked) < len(self.metrics) and of_run:
      if self.is_first_stage:
        raise UserError(
          f'{self.options.workdir} is a first stage; of those there are '
          f'{", ".join(RECONSTRUCTION)}.'
        )
      for one in settings:
        generate.batch(self.ldm, one, self.conditions, 0, 1)
    if jax.process_index():
      return  # The first process measures.
    for table, network_of in self._tables:
      self._check_set(table, network_of)
    if 'neighbours' in self.metrics:
      _ = self.neighbour_network, self.reference
    if 'scene_accuracy' in self.metrics and self.captions is None:
      raise UserError(
        '--metrics=scene_accuracy needs a text run on scenes, or a gallery '
        'of one with its captions (sample.py --inputs=SPLIT).'
      )
    if 'lpips' in asked:
      _ = self.lpips_params
    if asked and of_run:
      first_stage_metrics.check_run(asked, self.num_codes)
      _ = self.originals, 'rfid' in asked and self.inception
    elif asked:
      first_stage_metrics.check_sets(asked, self.reference, self.samples)

  def _check_set(self, table: Mapping, network_of) -> None:
    asked = {k: table[k] for k in self.metrics if k in table}
    if not asked:
      return
    wanted = set_metrics.needs(asked.values(), True)
    _, lacking = self.reference_moments(network_of(), wanted)
    reference = self.reference.count if any(lacking.values()) else 0
    samples = self.options.num
    if self.options.samples:
      samples = self.samples.count
    for metric in asked.values():
      metric.check(samples, reference, self.options.protocol)

  # Numbers.

  @property
  def _tables(self):
    """(set metrics, the network that they are taken in), twice."""
    return (
      (set_metrics.METRICS, lambda: self.inception),
      (set_metrics.RANDOM, lambda: self.random),
    )

  def statistics(
    self, network: Network, images: ImageSet, wanted: Mapping, cached: bool
  ) -> Statistics:
    """Moments and rows of a set; of references from the cache."""
    arguments = {**wanted, 'batch_size': self.options.batch_size}
    if not cached:
      found = statistics.measure(network, images, **arguments)
    else:
      found = statistics.measure_cached(
        network, images, self.cache, **arguments
      )
    if found.pace is not None:
      self.pace[f'{network.name} on {images.name}'] = found.pace.about()
    return found

  def reference_statistics(self, network: Network, wanted) -> Statistics:
    """As the npz says of itself, or as measured."""
    given, lacking = self.reference_moments(network, wanted)
    found = Statistics(self.options.reference, 0, {}, {})
    if any(lacking.values()):
      found = self.statistics(network, self.reference, lacking, True)
    return dataclasses.replace(found, moments={**found.moments, **given})

  def reference_moments(self, network: Network, wanted) -> tuple[dict, dict]:
    """(what the reference's npz says of itself, what is left to measure)."""
    path, given = self.options.reference, {}
    if network.size and path.endswith('.npz'):
      given = npz.read_statistics(path)
    moments = tuple(m for m in wanted['moments'] if m not in given)
    return given, {'moments': moments, 'rows': wanted['rows']}

  def set_numbers(self, table: Mapping, network_of, samples: ImageSet) -> dict:
    """The metrics of `table` that were asked for, of samples and reference."""
    asked = {k: table[k] for k in self.metrics if k in table}
    if not asked:
      return {}
    network, wanted = network_of(), set_metrics.needs(asked.values(), False)
    if self.options.save_npz and network.size:
      wanted['moments'] = tuple({*wanted['moments'], 'pool', 'spatial'})
    theirs = set_metrics.needs(asked.values(), True)
    reference = None
    if any(theirs.values()):
      reference = self.reference_statistics(network, theirs)
    ours = self.statistics(network, samples, wanted, False)
    if self.options.save_npz and network.size:
      save_npz(self.options.save_npz, samples, ours)
    return set_metrics.compute(asked, ours, reference, self.options.protocol)

  def sample_numbers(self, samples: ImageSet) -> dict[str, float]:
    """Every metric of samples that was asked for."""
    found = {}
    for table, network_of in self._tables:
      found |= self.set_numbers(table, network_of, samples)
    if 'scene_accuracy' in self.metrics:
      pixels = np.stack(samples.take(samples.count))
      count = min(len(pixels), len(self.captions))
      scores = scene_accuracy.scene_accuracy(
        pixels[:count], self.captions[:count]
      )
      found |= {f'scene_{k}': v for k, v in scores.items()}
    return found

  def reconstruction_numbers(self) -> dict[str, float]:
    """Metrics of the first stage, or of two folders pair by pair."""
    asked = [name for name in self.metrics if name in RECONSTRUCTION]
    if not asked:
      return {}
    params = self.lpips_params if 'lpips' in asked else None
    if self.options.samples:
      return first_stage_metrics.of_sets(
        asked, self.reference, self.samples, self.options.batch_size, params
      )
    networks = {}
    if 'rfid' in asked:
      networks['rfid'] = self.inception
    if 'random_rfrechet' in asked:
      networks['random_rfrechet'] = self.random
    return first_stage_metrics.of_run(
      asked,
      self.originals,
      self.reconstruct,
      self.options.batch_size,
      networks,
      params,
      self.num_codes,
    )

  @property
  def num_codes(self) -> int:
    return self.ldm.config.first_stage.get('num_codes', 0)

  @functools.cached_property
  def reconstruct(self):
    """images [B H W 3] in [-1, 1] -> (the same again, codes or None)."""
    again = first_stage_metrics.reconstructor(self.ldm.parts.first_stage)
    return again(self.ldm.params['first_stage'])

  def neighbour_picture(self) -> dict[str, np.ndarray]:
    """A title, and samples beside their nearest images of the reference."""
    network = self.neighbour_network
    samples = self.samples.take(_NEIGHBOURS_OF)
    indices, _ = neighbours.nearest(
      network, samples, self.reference, batch_size=self.options.batch_size
    )
    title = (
      f'Samples (left) and their nearest images of {self.reference.name}, in '
      f'the features of a {network.name}'
    )
    return {title: neighbours.picture(samples, self.reference, indices)}


def read_weights(path: str) -> Mapping[str, np.ndarray]:
  """Arrays of a published file by name; nothing in it is executed.

  These files are old: the format of PyTorch before 1.6 is read as well.
  """
  if path.endswith('.pb'):
    return graph_file.read_constants(path)
  return files.read_published(path)


def save_npz(path: str, samples: ImageSet, found: Statistics) -> None:
  """The samples and their statistics, as the ADM evaluator reads them."""
  pixels = samples.take(samples.count)
  sizes = {image.shape[:2] for image in pixels}
  if len(sizes) > 1:
    raise UserError(
      f'--save_npz needs images of one size; {samples.name} has {len(sizes)}.'
    )
  npz.write(path, np.stack(pixels), found.moments)
