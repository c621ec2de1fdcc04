"""Configs are checked whole, before anything is compiled."""

import pytest

from ldm_jax import build
from ldm_jax.types import UserError
from tests import tiny

MUTATIONS = [
  ({'stag': 1}, "'stag' is not a config key. Did you mean 'stage'"),
  ({'unet': {'chanels': 64}}, "Did you mean 'unet.channels'"),
  ({'unet': {'channels': 'many'}}, "unet.channels='many' must be int"),
  ({'unet': {'channels': 64.5}}, 'unet.channels=64.5 must be int'),
  ({'unet': {'head_width': 8}}, 'exactly one of head_width and num_heads'),
  ({'unet': {'attention': 'linear'}}, "unet.attention='linear'"),
  ({'unet': {'attention_levels': (7,)}}, 'names level 7'),
  ({'unet': {'norm_groups': 5}}, 'norm_groups=5'),
  ({'unet': {'dtype': 'float16'}}, "'unet.dtype' is not a config key"),
  ({'first_stage': {'name': 'vae'}}, "first_stage.name='vae' is unknown"),
  ({'first_stage': {'num_codes': 9}}, "'first_stage.num_codes' is not"),
  ({'task': {'name': 'txt'}}, "Did you mean 'text'"),
  ({'task': {'hight': 2}}, "'task.hight' is not a config key"),
  ({'schedule': {'kind': 'lineal'}}, "schedule.kind='lineal' is unknown"),
  ({'schedule': {'start': 0.5, 'end': 0.1}}, 'start=0.5, end=0.1'),
  ({'schedule': {'zero_terminal_snr': True}}, "loss.prediction='eps' finds no"),
  ({'sampling': {'sampler': 'rk4'}}, "sampler='rk4' is unknown"),
  ({'sampling': {'sampler': 'plms', 'spacing': 'karras', 'steps': 5}},
   'evenly spaced'),
  ({'sampling': {'threshold': 0.9}}, 'threshold=0.9: latents have no range'),
  ({'schedule': {'steps': 5}}, "'schedule.steps' is not a config key"),
  ({'loss': {'prediction': 'epsilon'}}, "loss.prediction='epsilon'"),
  ({'loss': {'kind': 'huber'}}, "loss.kind='huber'"),
  ({'loss': {'perceptual_weight': 1.0}}, "'loss.perceptual_weight' is not"),
  ({'optim': {'learning_rate': '1e-4'}}, "optim.learning_rate='1e-4' must be"),
  ({'optim': {'schedule': 'step'}}, 'optim.schedule'),
  ({'data': {'crop': 'left'}}, "data.crop='left'"),
  ({'data': {'size': 30}}, "size 30x30 does not divide by the first stage's"),
  ({'data': {'folder': 'x'}}, "'data.folder' is not a config key"),
  ({'dtype': 'float64'}, "dtype='float64'; allowed: float32, bfloat16"),
  ({'stage': 'gan'}, "stage='gan'; allowed"),
  ({'num_steps': 0}, 'num_steps=0 must be at least 1'),
  ({'batch_size': -1}, 'batch_size=-1 must be at least 1'),
  ({'mesh': {'model': 2}}, "'mesh.model' is not a config key"),
  ({'sampling': {'stepz': 2}}, "Did you mean 'sampling.steps'"),
]  # fmt: skip


@pytest.mark.parametrize(('change', 'says'), MUTATIONS)
def test_a_bad_config_is_named_with_its_key(change, says):
  with pytest.raises(UserError) as error:
    build.parts(tiny.merged(tiny.diffusion(), change))
  assert says in str(error.value)


def test_a_missing_key_is_named():
  config = tiny.diffusion()
  del config['unet']['channels']
  with pytest.raises(UserError, match='unet.channels is missing'):
    build.parts(config)


def test_an_unset_placeholder_is_the_default():
  parts = build.parts(tiny.merged(tiny.diffusion(), {'loss': {'kind': None}}))
  assert parts.loss.kind == 'l2'


def test_integers_pass_where_floats_are_meant():
  config = tiny.merged(tiny.diffusion(), {'optim': {'learning_rate': 1}})
  assert build.parts(config).optim.learning_rate == 1.0


def test_fields_of_conditioner_and_prepare_are_one_section():
  conditioner, prepare = build.task(tiny.diffusion()['task'])
  assert conditioner.length == prepare.length == 16
