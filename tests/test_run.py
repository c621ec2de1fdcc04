"""Opening a run: what is refused before anything is compiled."""

import functools
import types

import jax
import numpy as np
import pytest
from PIL import Image

import train
from ldm_jax import build, dry_run
from ldm_jax import run as runs
from ldm_jax.diffusion.sampling import image_keys
from ldm_jax.diffusion.settings import Settings
from ldm_jax.evaluation import image_sets
from ldm_jax.nn import backends, conv
from ldm_jax.programs import Programs
from ldm_jax.training import checkpoint, parallel
from ldm_jax.types import UserError
from tests import tiny


def opened(config):
  return runs.open_run(build.parts(config))


def pictures(folder, count=4, size=40):
  folder.mkdir()
  rng = np.random.default_rng(0)
  for i in range(count):
    pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f'{i}.png')
  return {'source': 'folder', 'path': str(folder), 'num_examples': 0}


def test_a_batch_that_devices_do_not_divide_names_what_would():
  with pytest.raises(UserError, match='batch_size=12'):
    opened(tiny.diffusion(batch_size=12, mesh={'data': 8}))


def test_pictures_that_no_null_could_guide_are_refused_at_the_start():
  config = tiny.diffusion(null_prob=0.0)
  config['task'] = {'name': 'class_label', 'num_classes': 40, 'width': 16}
  with pytest.raises(UserError, match='sampling.guidance=2.0: .* no null'):
    opened(config)


def test_an_empty_folder(tmp_path):
  data = {'source': 'folder', 'path': str(tmp_path)}
  with pytest.raises(UserError, match='No images'):
    opened(tiny.first_stage(data=data))


def test_text_without_captions(tmp_path):
  with pytest.raises(UserError, match="needs 'text'.*metadata.jsonl"):
    opened(tiny.diffusion(data=pictures(tmp_path / 'x')))


def test_a_crop_larger_than_the_images(tmp_path):
  data = pictures(tmp_path / 'x') | {'size': 64}
  with pytest.raises(UserError, match='40x40'):
    opened(tiny.first_stage(data=data))


def test_a_truncated_image_is_named(tmp_path):
  data = pictures(tmp_path / 'x')
  path = tmp_path / 'x' / '2.png'
  path.write_bytes(path.read_bytes()[:900])
  with pytest.raises(UserError, match='2.png'):
    opened(tiny.first_stage(data=data))


def test_a_damaged_held_out_image_does_not_end_a_run(tmp_path):
  data = pictures(tmp_path / 'train', count=4) | {'path': str(tmp_path)}
  pictures(tmp_path / 'validation', count=6)
  (tmp_path / 'validation' / '2.png').write_text('no image')
  run = opened(tiny.first_stage(data=data | {'max_bad': 0.2}))
  held_out = image_sets.of_source(run.eval_source, run.parts.data, 'validation')
  read = [image for batch in held_out.batches(2) for image in batch]
  assert len(read) == 6 and all(image.shape == (32, 32, 3) for image in read)


def test_another_models_workdir_is_refused_with_the_keys(tmp_path):
  checkpoint.write_config(tmp_path, tiny.diffusion())
  config = tiny.diffusion(unet={'channels': 32})
  with pytest.raises(UserError, match='unet.channels: 16 there, 32 here'):
    train.train(config, tmp_path)


def test_a_first_stage_must_be_named():
  run = opened(tiny.diffusion(first_stage_from=''))
  with pytest.raises(UserError, match='first_stage_from is not set'):
    runs.begin(run)


def test_another_first_stage_is_refused_by_the_key_that_named_it(tmp_path):
  checkpoint.write_config(tmp_path, tiny.first_stage())
  config = tiny.diffusion(
    first_stage_from=str(tmp_path), first_stage={'channels': 16}
  )
  with pytest.raises(UserError, match='first_stage_from=.*config') as error:
    runs.check_begin(build.parts(config))
  assert '  first_stage.channels: 8 there, 16 here' in str(error.value)
  assert 'new workdir' not in str(error.value)


def test_a_foreign_folder_keeps_its_files(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('mine')
  with pytest.raises(UserError, match='metrics.jsonl'):
    train.train(tiny.diffusion(), tmp_path)
  assert (tmp_path / 'metrics.jsonl').read_text() == 'mine'


def test_a_given_scale_is_taken():
  run = opened(tiny.diffusion(scale_factor=0.18215, mesh={'data': 1}))
  _, held, meta = runs.begin(run)
  assert meta['scale_factor'] == 0.18215
  np.testing.assert_allclose(held['scale_factor'], 0.18215)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  """The workdir of a run whose every weight is its place in its array."""
  workdir = tmp_path_factory.mktemp('weights')
  config = tiny.diffusion(mesh={'data': 1}, scale_factor=0.5)
  run = opened(config)
  items = run.to_items(*runs.begin(run)[:2])
  for start, name in enumerate(('model', 'ema', 'first_stage')):
    leaves, tree = jax.tree.flatten(items[name])
    numbers = [
      (start + np.arange(x.size, dtype=x.dtype)).reshape(x.shape)
      for x in leaves
    ]
    items[name] = jax.tree.unflatten(tree, numbers)
  checkpoints = checkpoint.Checkpoints(workdir)
  checkpoints.save(7, items, {'scale_factor': 0.5})
  checkpoints.close()
  checkpoint.write_config(workdir, config)
  return workdir, items


def test_a_run_starts_from_the_weights_of_another(weights):
  workdir, items = weights
  changes = {'first_stage_from': '', 'unet': {'dropout': 0.3}}
  changes['mesh'] = {'data': 1}
  run = opened(tiny.diffusion(init_from=str(workdir), **changes))
  state, held, meta = runs.begin(run)
  same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
  same(state.ema, items['ema'])
  same(state.params['unet'], items['ema'])
  same(state.params['conditioner'], items['model']['conditioner'])
  same(held['first_stage'], items['first_stage'])
  assert meta == {'next_example': 0, 'scale_factor': 0.5}
  assert int(state.step) == 0
  moments = jax.tree.leaves(state.opt_state)
  assert all(np.count_nonzero(x) == 0 for x in moments if x.ndim)

  # And trains: no buffer is donated twice.
  stream = run.stream(0)
  _, batch = run.to_device(next(stream))
  stream.close()
  state, scalars = run.step(state, held, batch, run.rng)
  assert int(state.step) == 1


@pytest.mark.parametrize(
  ('changes', 'differs'),
  [
    ({'unet': {'channels': 32}}, 'unet.channels: 16 there, 32 here'),
    # Of the same shapes.
    ({'unet': {'num_heads': 1}}, 'unet.num_heads: 2 there, 1 here'),
    ({'first_stage': {'norm_groups': 8}}, 'first_stage.norm_groups: 4 there'),
  ],
)
def test_weights_of_another_architecture_are_refused(weights, changes, differs):
  config = {'init_from': str(weights[0]), 'first_stage_from': '', **changes}
  with pytest.raises(UserError, match='init_from=.* another model') as error:
    # Before the first stage is run, or anything compiled.
    runs.check_begin(build.parts(tiny.diffusion(**config)))
  assert f'  {differs}' in str(error.value)


def test_a_run_starts_from_weights_whose_first_stage_it_takes_elsewhere(
  weights,
):
  first_stage = {'norm_groups': 8, 'name': 'vq', 'num_codes': 16}
  config = tiny.diffusion(
    init_from=str(weights[0]),
    first_stage=first_stage,
    first_stage_from='random',
  )
  runs.check_begin(build.parts(config))


def test_a_first_stage_begins_from_that_of_a_diffusion_run_and_not_back(
  weights, tmp_path
):
  config = tiny.first_stage(init_from=str(weights[0]))
  runs.check_begin(build.parts(config))
  checkpoint.write_config(tmp_path, config)
  config = tiny.diffusion(init_from=str(tmp_path))
  with pytest.raises(UserError, match='stage: .first_stage. there, .diffusion'):
    runs.check_begin(build.parts(config))


def test_items_of_a_checkpoint_are_the_whole_state():
  run = opened(tiny.diffusion(mesh={'data': 1}))
  state, held, _ = runs.begin(run)
  items = run.to_items(state, held)
  assert set(items) == {'model', 'ema', 'first_stage', 'train'}
  again = run.training.from_items(items)
  assert jax.tree.structure(again) == jax.tree.structure(state)


def test_a_limit_of_spikes_is_set_on_the_way_and_taken_back(tmp_path):
  config = lambda limit: tiny.diffusion(
    mesh={'data': 1}, scale_factor=0.5, guard={'spike_limit': limit}
  )
  steps = iter(range(1, 4))
  state = None
  for limit in (0.0, 4.0, 0.0):
    run = opened(config(limit))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
      start = runs.resume(run, checkpoints)
      assert (start is None) == (state is None)
      state, held, meta = start or runs.begin(run)
      assert {*state.watch} == ({'mean', 'count'} if limit else set())
      assert jax.tree.structure(state) == jax.tree.structure(run.abstract_state)
      checkpoints.save(next(steps), run.to_items(state, held), meta)


def test_its_programs_can_be_made_for_several_tpus(monkeypatch):
  """Whose attention is a kernel, which JAX refuses to divide by itself."""
  monkeypatch.setattr(backends, 'here', lambda: backends.Device('tpu'))
  monkeypatch.setattr(parallel, 'MIN_SHARDED_ELEMENTS', 16)
  config = tiny.diffusion(
    mesh={'data': 4, 'fsdp': 2},
    data={'size': 128},
    unet={'attention_levels': (0,), 'remat': True},
    dtype='bfloat16',
  )
  run = runs.without_data(build.parts(config))
  kernels = lambda program, *args, **kwargs: (
    program.trace(*args, **kwargs)
    .lower(lowering_platforms=('tpu',))
    .as_text()
    .count('tpu_custom_call(')
  )
  step = run.step
  run.step = types.SimpleNamespace(lower=functools.partial(kernels, step))
  assert dry_run.lower_step(run) > 0
  # Of no use to the parameters, and left out.
  init = jax.jit(run.training.init, out_shardings=run.shardings)
  assert kernels(init, run.rng) == 0

  sample = conv.jit(Programs(run.parts).sample, static_argnames='shape')
  state, split = run.abstract_state, parallel.batch_sharding(run.mesh)
  scale = jax.device_put(np.float32(1), parallel.replicated(run.mesh))
  batch = run.parts.blank_batch(8)
  batch.pop('image')
  assert kernels(
    sample,
    {**state.params, 'unet': state.ema},
    {'first_stage': run.abstract_first_stage, 'scale_factor': scale},
    Settings(steps=2, guidance=2.0).plan(run.parts.schedule, pixels=False),
    parallel.place_keys(image_keys(0, 0, 8), split),
    parallel.to_global(run.mesh, batch),
    shape=run.parts.sampled_shape(128, 128),
  )
