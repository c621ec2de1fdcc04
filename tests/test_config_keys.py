"""Every setting of a config is a field of what it builds, with its default."""

import dataclasses
import importlib
import inspect

import pytest
from ml_collections import config_dict

from configs import common
from ldm_jax import build, sections
from ldm_jax.data.spec import DataSpec
from ldm_jax.diffusion import schedule as schedules
from ldm_jax.diffusion.loss import LossSpec as DiffusionLossSpec
from ldm_jax.first_stage.losses import LossSpec as FirstStageLossSpec
from ldm_jax.models.classifier import NoisyClassifier
from ldm_jax.models.unet import UNet
from ldm_jax.parts import MeshSpec, SamplingSpec, TopLevel
from ldm_jax.tasks import TASKS
from ldm_jax.training.guard import GuardSpec
from ldm_jax.training.optim import OptimSpec
from ldm_jax.training.profile import ProfileSpec


def get(name):
  """The plain config of 'x' or 'first_stage/x'."""
  module = importlib.import_module(f'configs.{name.replace("/", ".")}')
  return module.get_config().to_dict()


def test_sections_hold_every_key_that_can_be_set():
  # So that any of them can be overridden on the command line.
  diffusion = get('unconditional_churches')
  first_stage = get('first_stage/vq_f8')
  classifier = get('classifier_scenes')
  for section, kind in (
    (diffusion['unet'], UNet),
    (diffusion['data'], DataSpec),
    (diffusion['optim'], OptimSpec),
    (diffusion['loss'], DiffusionLossSpec),
    (diffusion['sampling'], SamplingSpec),
    (diffusion['mesh'], MeshSpec),
    (diffusion | {'classifier': {}}, TopLevel),
    (classifier['classifier'], NoisyClassifier),
    (first_stage['loss'], FirstStageLossSpec),
    (first_stage['first_stage'] | {'name': 0}, build.FIRST_STAGES['vq']),
  ):
    hidden = {'parent', 'name', 'dtype'} - (
      {'dtype'} if kind is TopLevel else set()
    )
    fields = {field.name for field in dataclasses.fields(kind)} - hidden
    assert section.keys() - {'name'} == fields, kind


TASK_CONFIGS = {
  'class_label': 'class_imagenet',
  'inpainting': 'inpainting_places',
  'inpainting_text': 'inpainting_text_scenes',
  'layout': 'layout_coco',
  'semantic': 'semantic_landscapes',
  'super_resolution': 'super_resolution_imagenet',
  'text': 'text_laion',
  'unconditional': 'unconditional_churches',
}


@pytest.mark.parametrize(
  'name', [*TASK_CONFIGS, 'clip_text', 'inpainting_clip_text']
)
def test_tasks_hold_every_key_with_the_default_of_what_it_builds(name):
  section = common.make_task(name)
  if name in TASK_CONFIGS:
    section = get(TASK_CONFIGS[name])['task']
  fields = {
    key: field
    for kind in TASKS[name]
    for key, field in sections.fields_of(kind).items()
    if key not in ('dtype', 'null_prob')  # The run's.
  }
  assert section.keys() == {'name', *fields} and section['name'] == name
  defaults = config_dict.ConfigDict(common.make_task(name)).to_dict()
  for key, value in defaults.items():
    # A placeholder leaves a field its own default.
    assert key == 'name' or value in (None, fields[key].default), key


def test_a_schedule_holds_every_key():
  known = inspect.signature(schedules.make).parameters
  for name in ('unconditional_churches', 'classifier_scenes'):
    assert get(name)['schedule'].keys() == known.keys()


# Defaults of configs that are not those of the fields they fill, and why.
OTHER_DEFAULTS = {
  'dtype',  # The fields' is what a CPU computes in.
  'null_prob',  # A field without one says that nobody knows.
  'upscale',  # Code refuses what it would invent; the release enlarges.
  'num_workers',  # Code starts no processes unasked.
}


def test_defaults_are_those_of_what_is_built():
  row = dict(optim={}, batch_size=1, num_steps=1)
  diffusion = common.diffusion(
    first_stage={}, task={'name': 'unconditional'}, unet={}, **row
  ).to_dict()
  classifier = common.classifier(first_stage={}, classifier={}, **row).to_dict()
  first_stage = common.first_stage({}, batch_size=1).to_dict()
  model = config_dict.ConfigDict(common.autoencoder('vq')).to_dict()
  for section, kind in (
    (diffusion, TopLevel),
    (diffusion['data'], DataSpec),
    (diffusion['optim'], OptimSpec),
    (diffusion['mesh'], MeshSpec),
    (diffusion['guard'], GuardSpec),
    (diffusion['profile'], ProfileSpec),
    (diffusion['unet'], UNet),
    (diffusion['loss'], DiffusionLossSpec),
    (diffusion['sampling'], SamplingSpec),
    (classifier['classifier'], NoisyClassifier),
    (first_stage['loss'], FirstStageLossSpec),
    (model, build.FIRST_STAGES['vq']),
  ):
    others = {
      name
      for name, field in sections.fields_of(kind).items()
      if field.default is not dataclasses.MISSING
      and section.get(name) not in (None, field.default)
    }
    assert others <= OTHER_DEFAULTS, kind
