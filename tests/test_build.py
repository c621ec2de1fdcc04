"""Configs are checked whole, before anything is compiled."""

import pytest
from PIL import Image

from ldm_jax import build
from ldm_jax import run as runs
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
  ({'data': {'size': 36}}, 'latent of 9x9 does not halve'),
  ({'data': {'folder': 'x'}}, "'data.folder' is not a config key"),
  ({'dtype': 'float64'}, "dtype='float64'; allowed: float32, bfloat16"),
  ({'stage': 'gan'}, "stage='gan'; allowed"),
  ({'num_steps': 0}, 'num_steps=0 must be at least 1'),
  ({'batch_size': -1}, 'batch_size=-1 must be at least 1'),
  ({'mesh': {'model': 2}}, "'mesh.model' is not a config key"),
  ({'sampling': {'stepz': 2}}, "Did you mean 'sampling.steps'"),
  ({'guard': {'watchdog': 5}}, "Did you mean 'guard.watchdog_minutes'"),
  ({'guard': {'spike_limit': 0.5}}, 'guard.spike_limit=0.5 must be above 1'),
  ({'profile': {'start': 0}}, 'profile.start=0 must be 1 or more'),
  ({'init_from': 3}, 'init_from=3 must be str'),
  ({'mesh': {'fsdp': 1.5}}, 'mesh.fsdp=1.5 must be int'),
  ({'mesh': 4}, 'mesh=4 must be dict'),
  ({'optim': {'learning_rate': 0.0}}, 'optim.learning_rate=0.0 is not'),
  ({'optim': {'b1': 1.0}}, 'optim.b1=1.0 is not allowed: it must be in [0, 1)'),
  ({'optim': {'moment_dtype': 'float16'}}, "'float32', 'bfloat16'"),
  ({'optim': {'lr': 1e-4}}, "'optim.lr' is not a config key"),
  ({'data': {'size': '32'}}, "data.size='32' must be int"),
  ({'data': {'flip': 'yes'}}, "data.flip='yes' must be bool"),
  ({'data': {'resample': 'nearest'}}, 'must be one of lanczos, bicubic'),
  ({'data': {'max_bad': 2.0}}, 'data.max_bad=2.0'),
  ({'data': {'num_workers': -1}}, 'data.num_workers=-1'),
  ({'data': None}, 'data is missing from the config'),
  ({'grad_accum': 0}, 'grad_accum=0 must be at least 1'),
  ({'batch_size': 7.5}, 'batch_size=7.5 must be int'),
  ({'save_every': 0}, 'save_every=0 must be at least 1'),
  ({'save_every': 4, 'keep_every': 6}, 'keep_every=6 must be 0'),
  ({'seed': -1}, 'seed=-1 must be 0 or more'),
  ({'null_prob': 1.5}, 'null_prob=1.5 must be between 0 and 1'),
  ({'ema_decay': 1.0}, 'ema_decay=1.0 must be at least 0 and below 1'),
  ({'scale_factor': -1.0}, 'scale_factor=-1.0 must be 0 or more'),
  ({'scale_factor': 'auto'}, "scale_factor='auto' must be float"),
  ({'sampling': {'steps': 2000}}, 'steps=2000 is outside 1 to 1000'),
  ({'sampling': {'num': 0}}, 'sampling.num=0 must be 1 or more'),
  ({'sampling': {'sampler': 'dim'}}, "sampler='dim' is unknown; allowed: ddim"),
  ({'unet': {'multipliers': (1, 0)}}, 'unet.multipliers=(1, 0) must be 1'),
  ({'unet': {'num_heads': 3}}, 'attention heads (3) must divide'),
  ({'unet': {'dropout': 1.5}}, 'unet.dropout=1.5 must be at least 0'),
  ({'unet': {'out_channels': 4}}, 'latents have; set it to 3'),
  ({'first_stage': 'kl_f4'}, "first_stage='kl_f4' must be dict"),
  ({'first_stage': {'multipliers': 3}}, 'first_stage.multipliers=3 must be'),
  ({'first_stage': {'embed_dim': 0}}, 'first_stage.embed_dim=0 must be 1'),
  ({'task': {'length': 0}}, 'task.length=0 must be 1 or more'),
  ({'loss': {'timesteps': 'logistic'}}, "loss.timesteps='logistic'; allowed"),
  ({'loss': {'logit_std': 0.0}}, 'loss.logit_std=0.0 must be above 0'),
  ({'loss': {'min_snr_gamma': -1.0}}, 'loss.min_snr_gamma=-1.0 must be 0'),
]  # fmt: skip


@pytest.mark.parametrize(('change', 'says'), MUTATIONS)
def test_a_bad_config_is_named_with_its_key(change, says):
  with pytest.raises(UserError) as error:
    build.parts(tiny.merged(tiny.diffusion(), change))
  assert says in str(error.value)


# What is found when devices and data are looked at, still before compiling.
OPENED = [
  ({'optim': {'warmup_steps': 50}}, 'optim.warmup_steps=50 is longer than'),
  ({'grad_accum': 3}, 'must be a multiple of 3. Use 6 or 9'),
  ({'mesh': {'data': 0}}, 'mesh.data=0, mesh.fsdp=1: each must be at least'),
  ({'data': {'source': 'imagenet'}}, "data.source='imagenet'; it must be"),
  ({'data': {'source': 'folder', 'path': 'gone'}}, "'gone' is not a folder"),
  ({'unet': {'attention_backend': 'flash9'}}, "attention_backend='flash9'"),
  ({'first_stage': {'norm_groups': 3}}, 'norm_groups=3 does not divide'),
  ({'first_stage': {'attention_levels': (9,)}}, 'has levels 0 to 2'),
  ({'task': {'vocab_size': 10}}, 'task.vocab_size=10 is too small for the 39'),
  ({'task': {'vocab_file': 'gone.txt'}}, 'Cannot read the vocabulary gone'),
]  # fmt: skip


@pytest.mark.parametrize(('change', 'says'), OPENED)
def test_what_does_not_fit_devices_or_data_is_named(change, says):
  config = tiny.merged(tiny.diffusion(mesh={'data': 1}), change)
  with pytest.raises(UserError) as error:
    runs.open_run(build.parts(config))
  assert says in str(error.value)


def test_a_table_without_a_row_for_the_null_is_named_with_the_number(tmp_path):
  for name in ('ant', 'bee', 'cow'):
    (tmp_path / name).mkdir()
    Image.new('RGB', (32, 32)).save(tmp_path / name / 'a.png')
  config = tiny.diffusion(
    data={'source': 'folder', 'path': str(tmp_path)}, mesh={'data': 1}
  )
  config['task'] = {'name': 'class_label', 'num_classes': 3, 'width': 16}
  with pytest.raises(UserError, match='label 2 .*needs task.num_classes=4'):
    runs.open_run(build.parts(config))
  config['task']['num_classes'] = 4
  runs.open_run(build.parts(config))
  with pytest.raises(UserError, match="'task.null_prob' is not a config key"):
    build.parts(tiny.merged(config, {'task': {'null_prob': 0.1}}))


def test_guidance_without_a_condition_is_named_before_training():
  config = tiny.diffusion() | {'task': {'name': 'unconditional'}}
  with pytest.raises(UserError, match="guidance=2.0: task 'unconditional'"):
    build.parts(config)


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
