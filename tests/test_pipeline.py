"""The Python face, on a small untrained run: shapes, sameness, refusals."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

import ldm_jax
from ldm_jax import build, pipeline, task_inputs
from ldm_jax import run as runs
from ldm_jax.diffusion import sampling
from ldm_jax.first_stage.codec import to_uint8
from ldm_jax.training import checkpoint
from ldm_jax.types import UserError
from tests import tiny, untrained

PROMPTS = ['a red circle in the top left', 'a blue square in the center'] * 2


@pytest.fixture(scope='module')
def ldm(text_run):
  """On one device."""
  ldm = ldm_jax.load(text_run)
  mesh = Mesh(np.asarray(jax.devices()[:1]), ('data',))
  return pipeline.LatentDiffusionPipeline(
    ldm.parts, jax.device_get(ldm.params), ldm.scale_factor, mesh
  )


@pytest.fixture
def compiled():
  """A list that grows by one with every program compiled."""
  programs = []

  def listen(event, seconds, **_):
    del seconds
    if event == '/jax/core/compile/backend_compile_duration':
      programs.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  return programs


def draw(ldm, **settings):
  defaults = {'num': 4, 'steps': 3, 'guidance': 2.0, 'eta': 0.5, 'seed': 7}
  return ldm.sample(**defaults | {'text': PROMPTS} | settings).astype(int)


def test_images_do_not_depend_on_batch_or_devices(ldm):
  whole = draw(ldm)
  assert whole.shape == (4, 32, 32, 3) and np.ptp(whole) > 50
  for batch_size in (1, 2):
    assert np.abs(draw(ldm, batch_size=batch_size) - whole).max() <= 1
  everywhere = pipeline.LatentDiffusionPipeline(
    ldm.parts,
    jax.device_get(ldm.params),
    ldm.scale_factor,
    Mesh(np.asarray(jax.devices()), ('data',)),
  )
  assert everywhere.mesh.size == 8
  assert np.abs(draw(everywhere) - whole).max() <= 1


def test_a_loaded_run_lies_as_the_run_does(text_run):
  """So that a program which training compiled is found again."""
  ldm = ldm_jax.load(text_run)
  run = runs.without_data(build.parts(checkpoint.read_config(text_run)))
  for leaf in jax.tree.leaves(ldm.params):
    assert leaf.sharding.mesh == ldm.mesh == run.mesh


def test_an_earlier_call_is_continued(ldm):
  whole = draw(ldm)
  half = draw(ldm, num=2, first=2, text=PROMPTS[2:])
  assert np.abs(half - whole[2:]).max() <= 1


def test_conditions_and_seeds_matter(ldm):
  whole = draw(ldm)
  assert np.abs(draw(ldm, text=PROMPTS[0]) - whole)[1].max() > 1
  assert np.abs(draw(ldm, seed=8) - whole).max() > 10


def test_settings_are_traced_and_compile_nothing(ldm, compiled):
  draw(ldm)
  compiled.clear()
  draw(ldm, seed=3, guidance=5.0, eta=0.0, text=PROMPTS[0])
  assert not compiled


def test_when_and_how_far_to_guide_is_traced_too(ldm, compiled):
  noise = jax.random.normal(jax.random.key(0), (4, *ldm.parts.latent_shape))
  given = [f({'text': PROMPTS}) for f in (ldm.condition, ldm.null_condition)]
  settings = dict(
    steps=3, sampler='dpmpp_2m', guidance=3.0, guidance_rescale=0.5,
    guidance_interval=(0, 400), threshold=0.9, threshold_range=2.0,
  )  # fmt: skip
  run = lambda **change: ldm.sample_latents(noise, *given, **settings | change)
  first = run()
  compiled.clear()
  others = [
    run(guidance_interval=(300.0, 999.0), spacing='karras'),
    run(guidance_rescale=0.0),
    run(threshold=0.6, threshold_range=1.0),
  ]
  assert not compiled
  for other in others:
    assert np.abs(first - other).max() > 1e-3


def test_strings_and_tokens_are_the_same_condition(ldm):
  from_text = ldm.condition({'text': PROMPTS})
  tokens = ldm.parts.prepare.tokenize(PROMPTS)
  from_tokens = ldm.condition({'tokens': tokens})
  np.testing.assert_array_equal(from_text.context, from_tokens.context)
  assert from_text.context.shape == (4, 16, 16)


def test_sample_latents_is_what_sample_decodes(ldm):
  keys = sampling.image_keys(7, 0, 4)
  noise = sampling.initial_noise(keys, ldm.parts.latent_shape)
  z = ldm.sample_latents(
    noise,
    ldm.condition({'text': PROMPTS}),
    ldm.null_condition({'text': PROMPTS}),
    steps=3,
    guidance=2.0,
    eta=0.5,
    seed=7,
  )
  images = np.asarray(to_uint8(ldm.decode(z))).astype(int)
  assert np.abs(images - draw(ldm)).max() <= 1


def test_unit_guidance_is_the_conditional_model(ldm):
  noise = jax.random.normal(jax.random.key(0), (2, *ldm.parts.latent_shape))
  cond, null = (
    f({'text': PROMPTS[:2]}) for f in (ldm.condition, ldm.null_condition)
  )
  plain = ldm.sample_latents(noise, cond, steps=3)
  guided = ldm.sample_latents(noise, cond, null, steps=3, guidance=1.0)
  np.testing.assert_array_equal(plain, guided)


def test_a_model_without_its_scale_is_refused(ldm):
  with pytest.raises(UserError, match='no scale_factor'):
    pipeline.LatentDiffusionPipeline(ldm.parts, ldm.params)


def test_latents_have_the_scale_of_the_checkpoint(ldm):
  image = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3))
  z = ldm.encode(image.astype(np.float32))
  assert z.shape == (2, 8, 8, 3)
  raw = ldm.parts.first_stage.apply(
    {'params': ldm.params['first_stage']},
    image.astype(np.float32),
    method='encode',
  )
  assert ldm.scale_factor == 0.75
  np.testing.assert_allclose(z, raw * 0.75, atol=1e-5)


@pytest.mark.parametrize(
  ('settings', 'says'),
  [
    ({'label': 3}, "'label' is not an input of task 'text'"),
    ({'text': PROMPTS[:3]}, "3 values of 'tokens' for num=4"),
    ({'steps': 0}, 'steps=0 is outside 1 to 1000'),
    ({'sampler': 'rk4'}, "sampler='rk4' is unknown"),
    ({'spacing': 'even'}, "spacing='even' is unknown"),
    ({'threshold': 0.9}, 'threshold=0.9: latents have no range'),
    ({'eta': 2.0}, 'eta=2.0 is outside'),
    ({'size': (30, 32)}, 'size 30x32 does not divide'),
    ({'num': 0}, 'num=0'),
  ],
)
def test_mistakes_are_named(ldm, settings, says):
  with pytest.raises(UserError, match=says.replace('(', r'\(')):
    draw(ldm, **settings)


def test_mistakes_are_found_before_a_batch_is_asked_for(ldm):
  for settings in ({'steps': 0}, {'size': (36, 32)}, {'image': 0, 'mask': 0}):
    with pytest.raises(UserError):
      ldm.sample_batches(4, text=PROMPTS, **settings)
  for z in (np.zeros((1, 9, 8, 3)), np.zeros((1, 8, 7, 3))):
    with pytest.raises(UserError, match='does not halve'):
      ldm.denoise(z, 0, ldm.condition({'text': PROMPTS[:1]}))


def test_there_is_no_guidance_without_a_condition():
  ldm = untrained.unconditional()
  with pytest.raises(UserError, match="guidance=3.0: task 'unconditional' has"):
    ldm.sample_batches(1, guidance=3.0)
  noise = np.zeros((1, *ldm.parts.latent_shape))
  with pytest.raises(UserError, match='guidance=3.0'):
    ldm.sample_latents(noise, None, guidance=3.0)


def test_guidance_that_was_never_trained_is_warned_of(caplog):
  """But not of a release, which does not say."""
  warn = lambda **run: task_inputs.check_guidance(
    build.parts(tiny.diffusion(**run)), 3.0
  )
  with caplog.at_level('WARNING'):
    warn()
    config = tiny.diffusion()
    del config['null_prob']
    task_inputs.check_guidance(build.parts(config), 3.0)
    assert not caplog.records
    warn(null_prob=0.0)
  assert 'trained with null_prob=0' in caplog.text


@pytest.mark.parametrize(
  ('said', 'run'),
  [({'null_label': False}, {'null_prob': None}), ({}, {'null_prob': 0.0})],
)
def test_classes_without_a_null_are_not_guided(said, run):
  """A class would be taken for it; so of imports, and of runs trained here."""
  task = {'name': 'class_label', 'num_classes': 41, 'width': 16, **said}
  parts = build.parts({**tiny.diffusion(**run), 'task': task})
  task_inputs.check_guidance(parts, 1.0)
  with pytest.raises(UserError, match='guidance=3.0: .* All 41 of its'):
    task_inputs.check_guidance(parts, 3.0)
  ldm = untrained.pipeline(task=task, null_prob=0.0)
  with pytest.raises(UserError, match='null_condition: this run has no null'):
    ldm.null_condition({'label': [0]})


def test_latents_need_a_null_to_be_guided_and_settings_that_there_are(ldm):
  cond = ldm.condition({'text': PROMPTS})
  noise = np.zeros((4, *ldm.parts.latent_shape), np.float32)
  with pytest.raises(UserError, match="'stesp' is no setting .* steps, samp"):
    ldm.sample_latents(noise, cond, stesp=3)
  with pytest.raises(UserError, match=r'guidance=3.0 needs null'):
    ldm.sample_latents(noise, cond, guidance=3.0)


def test_a_first_stage_alone_encodes_and_decodes(vq_run):
  ldm = ldm_jax.load(vq_run)
  z = ldm.encode(np.zeros((1, 32, 32, 3), np.float32))
  assert ldm.decode(z).shape == (1, 32, 32, 3)
  with pytest.raises(UserError, match='a first stage alone'):
    ldm.sample(1)


def test_no_run_is_one_clear_error(tmp_path):
  with pytest.raises(UserError, match='Is .* the workdir of a run'):
    ldm_jax.load(tmp_path / 'nothing')
