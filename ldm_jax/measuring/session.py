"""One evaluation under way: its run, its networks, its images."""

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
  random_features,
  usable,
  vgg,
)
from ldm_jax.evaluation.features import Network
from ldm_jax.evaluation.image_sets import ImageSet
from ldm_jax.first_stage import lpips
from ldm_jax.interop import files, graph_file
from ldm_jax.measuring import generate
from ldm_jax.measuring.options import NAMES, Options
from ldm_jax.splits import open_split
from ldm_jax.training import checkpoint, manifest
from ldm_jax.types import UserError


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
    return generate.Conditions(
      self.ldm, options.inputs, options.seed, options.masks
    )

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
    """A path's images, or a split of the run's data; by default its train.

    A path's must all be whole; of a split, data.max_bad may be left out.
    """
    name, num = self.options.reference, self.options.reference_num
    if name and pathlib.Path(name).exists():
      found = image_sets.open_path(name, '--reference')
      if self.options.samples:  # Nothing is drawn before they are read.
        return found.first(num or found.count)
      return self._usable(found, num, None)
    if self.options.workdir:
      found = self.split(
        name or self.ldm.parts.data.train_split, '--reference', 'a path'
      )
      return self._usable(found, num, self.ldm.parts.data.max_bad)
    what = f'{name} does not exist' if name else 'missing'
    raise UserError(
      f'--reference is {what}; it takes a folder, an .npz, or with '
      '--workdir a split of its data.'
    )

  def split(self, name: str, option: str, other: str = '') -> ImageSet:
    spec = self.ldm.parts.data
    source = open_split(spec, name, option, other)
    return image_sets.of_source(source, spec, name)

  @functools.cached_property
  def originals(self) -> ImageSet:
    """What the run's first stage is to reconstruct."""
    split = self.options.inputs or self.ldm.parts.data.eval_split
    found = self.split(split, '--inputs')
    return self._usable(found, self.options.num, self.ldm.parts.data.max_bad)

  def _usable(self, found: ImageSet, num: int, share) -> ImageSet:
    """The first `num` (0: all) that are no damaged files; see usable.py."""
    num = num or found.count
    if not found.stored:
      return found.first(num)
    return usable.usable(found, num, share, self.cache, self.say)

  @property
  def left_out(self) -> list[str]:
    """What the sets that were opened lack, in sentences."""
    opened = [self.__dict__.get(name) for name in ('reference', 'originals')]
    return [usable.sentence(s) for s in opened if s is not None and s.left_out]

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

  @property
  def num_codes(self) -> int:
    return self.ldm.config.first_stage.get('num_codes', 0)

  @functools.cached_property
  def reconstruct(self):
    """images [B H W 3] in [-1, 1] -> (the same again, codes or None)."""
    again = first_stage_metrics.reconstructor(self.ldm.parts.first_stage)
    return again(self.ldm.params['first_stage'])


def read_weights(path: str) -> Mapping[str, np.ndarray]:
  """Arrays of a published file by name; nothing in it is executed.

  These files are old: the format of PyTorch before 1.6 is read as well.
  """
  if path.endswith('.pb'):
    return graph_file.read_constants(path)
  return files.read_published(path)
