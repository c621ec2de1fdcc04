"""Every config builds, at full size and without arithmetic, to the parameter.

The counts are the reference's: the released models, instantiated, and the
columns of the paper's Tables 12 to 15 at their printed settings.
"""

import functools
import importlib
import json
import math
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import config_dict

from ldm_jax import build
from ldm_jax.training import optim
from ldm_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(
  path.relative_to(ROOT).with_suffix('').as_posix()
  for path in (ROOT / 'configs').rglob('*.py')
  if path.name != 'common.py'
)
TRAINED = [name for name in FILES if not name.endswith('/identity')]
TRAINED_FIRST_STAGES = [name for name in TRAINED if '/first_stage/' in name]

# Released autoencoders, with their codebooks.
FIRST_STAGES = {
  'kl_f4': 55_312_063,
  'kl_f8': 83_653_863,
  'kl_f16': 69_610_963,
  'kl_f32': 103_880_131,
  'vq_f4': 55_322_782,
  'vq_f4_noattn': 53_219_486,
  'vq_f8': 67_717_295,
  'vq_f8_n256': 67_652_783,
  'vq_f16': 69_593_371,
}

# Config and variant -> first stage, parameters of the U-Net and of the
# conditioner. The released text and layout encoders carry an output head that
# nothing uses (39,098,682, 19,564,602 and 4,202,496 more).
MODELS = {
  # Table 12.
  'unconditional_celebahq': ('vq_f4', 274_056_163, 0),
  'unconditional_ffhq': ('vq_f4', 274_056_163, 0),
  'unconditional_bedrooms': ('vq_f4', 274_056_163, 0),
  'unconditional_churches': ('kl_f8', 256_401_796, 0),
  'unconditional_churches:released': ('kl_f8', 294_966_916, 0),
  # Table 13.
  'class_imagenet_f1': ('identity', 396_835_971, 512_000),
  'class_imagenet_f2': ('vq_f2', 390_888_578, 512_000),
  'class_imagenet_f4': ('vq_f4', 400_920_579, 512_000),
  'class_imagenet_f8': ('vq_f8', 394_984_196, 512_000),
  'class_imagenet_f8:released': ('vq_f8', 394_984_196, 512_000),
  'class_imagenet_f16': ('vq_f16', 395_002_632, 512_000),
  'class_imagenet_f32': ('vq_f32_c32', 395_113_248, 512_000),
  # Table 14.
  'unconditional_celeba_f1': ('identity', 270_458_115, 0),
  'unconditional_celeba_f2': ('vq_f2', 264_510_722, 0),
  'unconditional_celeba_f4': ('vq_f4', 274_056_163, 0),
  'unconditional_celeba_f8': ('vq_f8', 257_733_124, 0),
  'unconditional_celeba_f16': ('vq_f16', 257_751_560, 0),
  'unconditional_celeba_f32': ('vq_f32_c32', 257_862_176, 0),
  # Table 15, and released variants.
  'text_laion': ('kl_f8', 872_300_484, 542_895_360),
  'text_conceptual': ('vq_f4', 403_623_939, 166_590_080),
  'layout_openimages': ('vq_f4', 246_277_379, 54_656_000),
  'layout_openimages:released': ('vq_f4', 246_277_379, 54_656_000),
  'layout_coco': ('vq_f8', 312_241_540, 54_656_000),
  'class_imagenet': ('vq_f4', 400_920_579, 512_512),
  'super_resolution_imagenet': ('vq_f4', 113_622_563, 0),
  'super_resolution_imagenet:printed': ('vq_f4', 105_411_363, 0),
  'super_resolution_imagenet:released': ('vq_f4', 113_622_563, 0),
  'inpainting_places': ('vq_f4_noattn', 215_230_467, 0),
  'inpainting_places_attention': ('vq_f4', 215_230_467, 0),
  'inpainting_places_big': ('vq_f4_noattn', 387_245_827, 0),
  'semantic_landscapes': ('vq_f4', 215_229_315, 546),
  'semantic_landscapes:released': ('vq_f4', 215_229_315, 546),
  'semantic_landscapes:released512': ('vq_f4', 215_229_315, 546),
}

# Ours: no reference has them.
DEMOS = [
  'text_scenes', 'class_scenes', 'unconditional_scenes', 'class_cifar10',
  'class_imagenet64', 'classifier_scenes', 'layout_scenes',
  'semantic_scenes', 'super_resolution_scenes', 'inpainting_scenes',
  'inpainting_text_scenes',
]  # fmt: skip


def module_of(name):
  return importlib.import_module(name.replace('/', '.'))


def get(name):
  """The plain config of 'configs/x' or 'configs/x:variant'."""
  file, _, variant = name.partition(':')
  return module_of(file).get_config(variant).to_dict()


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.cache
def _first_stage_count(text):
  parts = build.parts(json.loads(text))
  rng = jax.random.key(0)
  return count(jax.eval_shape(lambda r: build.init_first_stage(parts, r), rng))


@functools.cache
def _model_counts(text):
  parts = build.parts(json.loads(text))
  latent = parts.latent_shape

  def init(rng):
    encode = lambda image: jnp.zeros((image.shape[0], *latent))
    z, t = jnp.zeros((1, *latent)), jnp.zeros(1, jnp.int32)
    return parts.model.init(rng, z, t, parts.blank_batch(1), encode)

  params = jax.eval_shape(init, jax.random.key(0))['params']
  return {name: count(part) for name, part in params.items()}


@functools.cache
def _classifier_count(text):
  parts = build.parts(json.loads(text))
  z = jnp.zeros((1, *parts.latent_shape))
  init = lambda rng: parts.classifier.init(rng, z, jnp.zeros(1, jnp.int32))
  return count(jax.eval_shape(init, jax.random.key(0)))


def counts(config):
  """Parameters by part. What several configs share is traced once."""
  smallest = {
    'stage': 'first_stage',
    'num_steps': 1,
    'batch_size': 1,
    'data': {'source': 'scenes', 'size': config['data']['size']},
    'first_stage': config['first_stage'],
    'optim': {'learning_rate': 1.0},
    'loss': {},
  }
  dump = functools.partial(json.dumps, sort_keys=True)
  found = {'first_stage': _first_stage_count(dump(smallest))}
  if config['stage'] == 'diffusion':
    smallest |= {key: config[key] for key in ('stage', 'task', 'unet')}
    found |= _model_counts(dump(smallest))
  if config['stage'] == 'classifier':
    smallest |= {key: config[key] for key in ('stage', 'classifier')}
    found['classifier'] = _classifier_count(dump(smallest))
  return found


def autoencoder_count(
  name,
  z_channels,
  embed_dim,
  multipliers,
  num_codes=0,
  channels=128,
  num_res_blocks=2,
  attention_levels=(),
  mid_attention=True,
  **_,
):
  """The parameters of an autoencoder, from the paper's description."""
  conv = lambda i, o, k=3: i * o * k * k + o
  norm = lambda c: 2 * c
  attention = lambda c: norm(c) + 4 * conv(c, c, 1)
  res = lambda i, o: (
    norm(i) + conv(i, o) + norm(o) + conv(o, o) + (i != o) * conv(i, o, 1)
  )
  last = len(multipliers) - 1
  widths = [channels * m for m in multipliers]
  middle = 2 * res(widths[-1], widths[-1]) + mid_attention * attention(
    widths[-1]
  )

  def levels(order, blocks, width, resampled):
    total = 0
    for level in order:
      for _ in range(blocks):
        total += res(width, widths[level])
        width = widths[level]
        total += (level in attention_levels) * attention(width)
      total += (level in resampled) * conv(width, width)
    return total + norm(width)

  k = 2 if name == 'kl' else 1  # a mean and a log-variance
  encoder = conv(3, channels) + middle + conv(widths[-1], k * z_channels)
  encoder += levels(range(last + 1), num_res_blocks, channels, range(last))
  # `levels` ends with a norm as wide as its last level: the encoder's own.
  decoder = conv(z_channels, widths[-1]) + middle + conv(widths[0], 3)
  decoder += levels(
    range(last, -1, -1), num_res_blocks + 1, widths[-1], range(1, last + 1)
  )
  between = conv(k * z_channels, k * embed_dim, 1)
  return (
    encoder
    + decoder
    + between
    + conv(embed_dim, z_channels, 1)
    + num_codes * embed_dim
  )


@pytest.mark.parametrize('name', FIRST_STAGES)
def test_released_first_stage_to_the_parameter(name):
  config = get(f'configs/first_stage/{name}')
  assert counts(config) == {'first_stage': FIRST_STAGES[name]}


@pytest.mark.parametrize('name', TRAINED_FIRST_STAGES)
def test_first_stage_has_the_described_size(name):
  config = get(name)
  assert counts(config)['first_stage'] == autoencoder_count(
    **config['first_stage']
  )


@pytest.mark.parametrize('name', MODELS)
def test_model_to_the_parameter(name):
  first_stage, unet, conditioner = MODELS[name]
  model = module_of(f'configs/first_stage/{first_stage}').get_model()
  config = get(f'configs/{name}')
  assert config['first_stage'] == config_dict.ConfigDict(model).to_dict()
  found = counts(config)
  assert found['unet'] == unet
  assert found.get('conditioner', 0) == conditioner
  if first_stage in FIRST_STAGES:
    assert found['first_stage'] == FIRST_STAGES[first_stage]


@pytest.mark.parametrize('name', TRAINED_FIRST_STAGES)
def test_first_stages_train_with_the_betas_of_the_release_or_their_own(name):
  # Ours were measured with others.
  own = {'scenes_kl': 0.9, 'scenes_vq': 0.9, 'cifar10_kl': 0.5,
         'imagenet64_kl': 0.5}  # fmt: skip
  short = name.split('/')[-1]
  expected = (own[short], 0.999) if short in own else (0.5, 0.9)
  adam = get(name)['optim']
  assert (adam['b1'], adam['b2']) == expected


def test_released_recipes_crop_what_the_release_does():
  # Shorter sides before crops of 256 and 512.
  stages = dict.fromkeys(FIRST_STAGES, 384) | {'vq_f4': -1}
  stages['vq_f4_noattn'] = -1
  for name, resize in stages.items():
    data = get(f'configs/first_stage/{name}')['data']
    found = data['crop'], data['size'], data['resize']
    assert found == ('random', 256, resize), name
  large = get('configs/semantic_landscapes:released512')
  assert large['data']['size'] == 512 and large['data']['resize'] == 768
  assert large['optim']['learning_rate'] == 8e-6
  small = get('configs/super_resolution_imagenet:released')['data']
  assert (small['crop'], small['min_crop']) == ('random', 0.5)
  for name, classes in (('layout_coco', 80), ('layout_openimages', 601)):
    layout = get(f'configs/{name}')
    assert layout['data']['crop'] == 'random' and layout['data']['flip']
    prepare = build.parts(layout).prepare
    with pytest.raises(UserError, match=f'5000; .* 0 to {classes - 1} '):
      prepare.arrays({'boxes': [[0, 0, 1, 1]], 'box_labels': [5000]})


def test_inpainting_decays_over_the_50_000_steps_of_the_release():
  parts = build.parts(get('configs/inpainting_places_big'))
  rate = optim.learning_rate(parts.optim, 360_000, 1)
  multipliers = [rate(step) / 1e-6 for step in (1_000, 50_000, 359_999)]
  np.testing.assert_allclose(multipliers, [0.1, 1e-4, 1e-4], rtol=1e-3)


def test_every_model_of_the_table_is_a_file_and_no_file_is_missed():
  named = {f'configs/{name.partition(":")[0]}' for name in MODELS}
  demos = {f'configs/{name}' for name in DEMOS}
  assert named | demos == {f for f in FILES if '/first_stage/' not in f}


def test_table_8_is_complete():
  # The zoo's 16 rows and the two VQGANs that it compares with.
  others = {
    'vq_f32_c32', 'scenes_kl', 'scenes_vq', 'cifar10_kl', 'imagenet64_kl',
  }  # fmt: skip
  rows = {name.split('/')[-1] for name in TRAINED_FIRST_STAGES} - others
  assert len(rows) == 18 and FIRST_STAGES.keys() <= rows


@pytest.mark.parametrize('name', DEMOS)
def test_demo_builds(name):
  config = get(f'configs/{name}')
  trained = {'diffusion': 'unet', 'classifier': 'classifier'}[config['stage']]
  assert counts(config)[trained]


@pytest.mark.parametrize('name', TRAINED)
def test_tiny_is_tiny(name):
  config = get(f'{name}:tiny')
  parts = build.parts(config)
  assert parts.data.source == 'scenes' and parts.data.size in (32, 64)
  assert parts.config.num_steps == 20
  found = counts(config)
  assert sum(found.values()) < 3e6
  # What the full config has, the tiny one has in small.
  full = get(name)
  assert config['first_stage']['name'] == full['first_stage']['name']
  assert found.keys() == counts(full).keys()
  f = parts.first_stage.downsampling
  assert f == build.parts(full).first_stage.downsampling
  if not parts.on_latents:
    assert parts.loss.perceptual_weight == 0
    return
  assert parts.config.first_stage_from == 'random'
  if parts.classifier is None:
    assert config['task']['name'] == full['task']['name']


def kinds_of_tiny():
  """A config for each kind of first stage, and for each task."""
  kinds = {}
  for name in TRAINED:
    config = get(f'{name}:tiny')
    if 'task' in config:
      unet = config['unet']
      kind = config['task']['name'], unet['resblock_updown']
    elif config['stage'] == 'classifier':
      kind = 'classifier'
    else:
      stage = config['first_stage']
      kind = stage['name'], len(stage['multipliers']), stage['mid_attention']
    kinds.setdefault(kind, name)
  return list(kinds.values())


@pytest.mark.slow
@pytest.mark.parametrize('name', kinds_of_tiny())
def test_tiny_trains(name, tmp_path):
  command = 'train.py', f'--config={name}.py:tiny', f'--workdir={tmp_path}'
  subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  losses = [row['loss'] for row in map(json.loads, lines) if 'loss' in row]
  assert len(losses) == 4 and all(math.isfinite(loss) for loss in losses)
  assert list((tmp_path / 'samples').glob('*.png'))


@pytest.mark.parametrize('name', TRAINED)
def test_opens_with_its_command(name):
  doc = module_of(name).__doc__
  first, blank = doc.splitlines()[:2]
  assert first.endswith('.') and not blank
  assert f'python train.py --config={name}.py ' in doc
  assert f'--config={name}.py:tiny' in doc
  for model in MODELS:
    file, _, variant = model.partition(':')
    if variant and name == f'configs/{file}':
      assert f'":{variant}"' in doc
  config = module_of(name).get_config()
  if config.stage == 'diffusion':
    trained = config.first_stage.name != 'identity'
    assert ('--config.first_stage_from=' in doc) == trained


def test_the_readme_lists_every_config_with_its_first_line():
  readme = (ROOT / 'README.md').read_text(encoding='utf-8')
  # A bar would end a cell.
  says = lambda f: module_of(f).__doc__.splitlines()[0].replace('|Z|', 'Z')
  rows = {f'| `{f}.py` | {says(f)} |' for f in FILES}
  assert not rows - set(readme.splitlines())


@pytest.mark.parametrize('name', FILES)
def test_is_short(name):
  text = (ROOT / f'{name}.py').read_text(encoding='utf-8')
  assert len(text.splitlines()) <= 80


def test_an_unknown_variant_is_answered_with_the_known():
  churches = module_of('configs/unconditional_churches')
  with pytest.raises(ValueError, match='tiny, released'):
    churches.get_config('huge')


def test_two_configs_never_share_a_section():
  one = module_of('configs/text_scenes').get_config()
  two = module_of('configs/class_scenes').get_config()
  one.unet.channels = 1
  one.first_stage.channels = 1
  assert two.unet.channels != 1 and two.first_stage.channels != 1
