"""Guides through the Python face; a classifier from train.py to sampling."""

import json

import jax
import numpy as np
import pytest

import ldm_jax
import train
from ldm_jax import guides
from ldm_jax.first_stage import lpips
from ldm_jax.types import UserError
from tests import tiny, untrained

RNG = np.random.default_rng(0)
TARGET = RNG.integers(0, 256, (16, 16, 3), np.uint8)
CLASSIFIER = {
  'num_classes': 40,
  'channels': 16,
  'multipliers': (1, 2),
  'attention_levels': (1,),
  'num_res_blocks': 1,
  'num_heads': 2,
  'norm_groups': 4,
}


def classifier(**changes) -> dict:
  """A classifier's run of 3 steps on an untrained first stage."""
  config = tiny.first_stage(
    stage='classifier', num_steps=3, save_every=3, show_every=3, log_every=1
  )
  config |= {
    'first_stage_from': 'random',
    'scale_batches': 1,
    'classifier': CLASSIFIER,
    'loss': {},
    'optim': {'learning_rate': 1e-3},
    'mesh': {'data': 1},
  }
  return tiny.merged(config, changes)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('classifier')
  assert train.train(classifier(scale_factor=1.0), folder) == 0
  return folder


def test_the_loop_trains_a_classifier_and_goes_on(workdir, capsys):
  rows = [json.loads(x) for x in (workdir / 'metrics.jsonl').open()]
  assert [r['step'] for r in rows if 'loss' in r] == [1, 2, 3]
  scores = [r for r in rows if 'eval_accuracy_0' in r]
  assert len(scores) == 1 and 0 <= scores[0]['eval_accuracy_3'] <= 1
  assert list((workdir / 'samples').glob('*seen.png'))
  assert train.train(classifier(scale_factor=1.0), workdir) == 0
  assert 'Going on from step 3' in capsys.readouterr().out
  with pytest.raises(UserError, match='classifier.pool'):
    other = {**CLASSIFIER, 'pool': 'adaptive'}
    train.train(classifier(scale_factor=1.0, classifier=other), workdir)
  with pytest.raises(UserError, match='a classifier: give it to'):
    ldm_jax.load(workdir).sample(1)


def test_a_class_is_guided_to(workdir):
  ldm = untrained.unconditional()
  draw = lambda *given: ldm.sample(num=2, steps=2, size=(32, 32), guides=given)
  plain = draw()
  none = draw(guides.to_class(ldm, workdir, 7, 0.0))
  assert np.abs(plain.astype(int) - none).max() <= 1
  # The classifier hardly learnt anything, so its gradient is small.
  guided = draw(guides.to_class(ldm, workdir, [7, 8], 1e4))
  assert (guided != plain).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
  ('changes', 'label', 'says'),
  [
    ({}, 40, 'label 40 is outside 0 to 39'),
    ({'schedule': {'kind': 'cosine'}}, 1, 'must have the same'),
    ({'first_stage': {'mid_attention': True}}, 1, 'first_stage.mid_attention'),
  ],
)
def test_a_classifier_of_something_else_is_refused(
  workdir, changes, label, says
):
  with pytest.raises(UserError, match=says):
    guides.to_class(untrained.unconditional(**changes), workdir, label, 1.0)


def test_a_run_that_is_no_classifier_is_refused(tmp_path):
  ldm = untrained.unconditional()
  checkpointed = tiny.diffusion()
  (tmp_path / 'config.json').write_text(json.dumps(checkpointed))
  with pytest.raises(UserError, match="stage 'diffusion' and not"):
    guides.to_class(ldm, tmp_path, 1, 1.0)


@pytest.mark.parametrize('kind', ['downsampled', 'mask'])
def test_images_come_closer_to_their_target_with_scale(kind):
  ldm = untrained.unconditional()
  mask = np.zeros((16, 16, 1), np.uint8)
  mask[:, :8] = 1
  how = {
    'downsampled': {'transform': guides.Downsampled(4)},
    'mask': {'mask': mask},
  }[kind]
  seen = {
    'downsampled': guides.Downsampled(4),
    'mask': lambda x: x[:, :, :8],
  }[kind]
  # What this first stage can draw at all.
  z = jax.random.normal(jax.random.key(5), (1, 4, 4, 3))
  target = np.clip(np.asarray(ldm.decode(z)), -1, 1)
  noise = np.asarray(jax.random.normal(jax.random.key(6), (2, 4, 4, 3)))
  cond = ldm.condition({'batch': np.zeros(2)})

  def psnr(scale):
    guide = guides.to_image(target, scale, **how)
    drawn = ldm.decode(
      ldm.sample_latents(noise, cond, steps=20, guides=[guide])
    )
    error = np.asarray(seen(drawn)) - np.asarray(seen(target))
    return 10 * np.log10(4 / np.mean(np.square(error)))

  # The square is summed over pixels, of which a mask leaves more.
  scales = {'downsampled': (0.3, 1.0, 3.0), 'mask': (0.03, 0.1, 0.3)}[kind]
  found = [psnr(scale) for scale in (0.0, *scales)]
  assert found == sorted(found) and found[-1] > found[0] + 0.5, found


def test_lpips_features_guide_too():
  ldm = untrained.unconditional()
  module = lpips.LPIPS()
  shapes = jax.eval_shape(
    module.init, jax.random.key(0), *[np.zeros((1, 32, 32, 3), np.float32)] * 2
  )['params']
  params = jax.tree.map(
    lambda s: (
      np.abs(RNG.standard_normal(s.shape, np.float32))
      / np.sqrt(np.prod(s.shape[:-1]) + 1)
    ),
    shapes,
  )
  target = RNG.integers(0, 256, (32, 32, 3), np.uint8)
  draw = lambda *given: ldm.sample(
    num=1, steps=1, spacing='trailing', guides=given
  )
  guide = guides.to_image(target, 1e4, lpips=params)
  assert (draw(guide) != draw()).any()


@pytest.mark.parametrize(
  ('given', 'says'),
  [
    ({'target': TARGET[0]}, 'target has the shape'),
    ({'target': TARGET, 'mask': np.ones((8, 16))}, '8x16 pixels and the image'),
    ({'target': TARGET[:, :8]}, '16x8 pixels and what is drawn 16x16'),
    ({'target': TARGET, 'transform': guides.Downsampled(3)}, 'shrink 3 times'),
    ({'target': TARGET[None][[0, 0, 0]]}, "3 values of 'target'"),
  ],
)
def test_targets_that_cannot_be_are_refused(given, says):
  ldm = untrained.unconditional()
  with pytest.raises(UserError, match=says):
    guide = guides.to_image(**given, scale=1.0)
    ldm.sample(num=2, steps=1, size=(16, 16), guides=[guide])


def test_a_missing_lpips_is_named_by_its_flag(tmp_path):
  with pytest.raises(UserError, match='--target_lpips='):
    guides.read_lpips(str(tmp_path))
