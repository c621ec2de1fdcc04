"""sample.py: from flags and files to the task's arrays."""

import functools
import json
import types

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

import sample
from ldm_jax import cli
from ldm_jax.data.spec import DataSpec
from ldm_jax.evaluation.gallery import Gallery
from ldm_jax.pipeline import LatentDiffusionPipeline
from ldm_jax.tasks import inpainting, layout, semantic, super_resolution, text
from ldm_jax.types import UserError

SCENES = DataSpec('scenes', 32, max_objects=3)


def inputs_of(prepare, size=None, data=SCENES, outpaint=None, **given):
  """`task_inputs` of a run of that task, without its networks."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  parts = types.SimpleNamespace(
    config=types.SimpleNamespace(task={'name': 'a task'}),
    data=data,
    prepare=prepare,
    check_draws=lambda: None,
  )
  ldm = types.SimpleNamespace(parts=parts)
  ldm.inputs = functools.partial(LatentDiffusionPipeline.inputs, ldm)
  with flagsaver.flagsaver(**given):
    return sample.task_inputs(ldm, size, outpaint)


@pytest.fixture
def folder(tmp_path):
  for i in range(3):
    Image.new('RGB', (24, 16), (i, 0, 0)).save(tmp_path / f'{i}.png')
    Image.new('L', (24, 16), 255 * (i % 2)).save(tmp_path / f'{i}_mask.png')
  return tmp_path


def test_prompts_are_taken_in_turn():
  prepare = text.Prepare(vocab_file='scenes', length=16)
  num, told, arrays = inputs_of(prepare, prompt=['a red circle', 'x'], num=3)
  assert num == 3 and told['text'] == ['a red circle', 'x', 'a red circle']
  np.testing.assert_array_equal(arrays['tokens'][0], arrays['tokens'][2])
  assert inputs_of(prepare, prompt=['a red circle'])[0] == 16
  assert inputs_of(prepare, prompt=list('abcdefghijklmnopqrst'))[0] == 20


def test_every_prompt_of_an_image_is_drawn(folder):
  prepare = text.Prepare(vocab_file='scenes', length=16)
  given = dict(prompt=['x', 'y'], image=str(folder / '0.png'), strength=0.5)
  num, told, arrays = inputs_of(prepare, **given)
  assert num == 2 and told['text'] == ['x', 'y']
  assert arrays['image'].shape == (2, 16, 24, 3)


def test_a_folder_of_pairs_decides_how_many(folder):
  num, told, arrays = inputs_of(inpainting.Prepare(), image=str(folder))
  assert num == 3 and not told
  assert arrays['image'].shape == (3, 16, 24, 3)
  assert arrays['mask'].mean(axis=(1, 2, 3)).tolist() == [0, 1, 0]


def test_an_image_and_a_mask_are_brought_to_the_size(folder):
  draw = functools.partial(
    inputs_of,
    inpainting.Prepare(),
    (8, 8),
    image=str(folder / '2.png'),
    mask=str(folder / '1_mask.png'),
  )
  num, _, arrays = draw()
  assert num == 1 and arrays['image'].shape == (1, 8, 8, 3)
  assert arrays['mask'].all()
  Image.new('L', (16, 24)).save(folder / '1_mask.png')
  with pytest.raises(UserError, match='24x16 for an image of 16x24'):
    draw()


def test_a_run_that_inpaints_draws_around_an_image(folder):
  _, _, arrays = inputs_of(
    inpainting.Prepare(), outpaint=(0, 8, 0, 0), image=str(folder / '2.png')
  )
  assert arrays['image'].shape == (1, 16, 32, 3)
  mask = arrays['mask'][0, ..., 0]
  assert mask[:, 24:].all() and not mask[:, :24].any()


def test_small_images_stay_small(folder):
  path = str(folder / '1.png')
  _, _, arrays = inputs_of(super_resolution.Prepare(), (64, 96), image=path)
  assert arrays['low_res'].shape == (1, 16, 24, 3)


def test_maps(folder):
  path = str(folder / '0_mask.png')
  _, _, arrays = inputs_of(semantic.Prepare(3), segmentation=path, num=2)
  assert arrays['segmentation'].shape == (2, 16, 24)


def test_layouts_name_the_classes_of_the_data(tmp_path):
  path = tmp_path / 'boxes.json'
  content = {'boxes': [[0, 0, 0.5, 0.5]], 'labels': ['red circle']}
  path.write_text(json.dumps([content, {'boxes': [], 'labels': []}]))
  num, told, arrays = inputs_of(layout.Prepare(), layout=str(path))
  assert num == 2 and told['box_labels'] == [[0], []]
  assert arrays['tokens'].shape == (2, 92)


def test_layouts_in_numbers_need_no_data(tmp_path):
  path, boxes = tmp_path / 'boxes.json', [[0, 0, 0.5, 0.5]]
  gone = DataSpec('folder', 32, str(tmp_path / 'gone'))
  for labels, says in ([3], None), (['dog'], 'is not a folder'):
    path.write_text(json.dumps({'boxes': boxes, 'labels': labels}))
    if says is None:
      _, told, _ = inputs_of(layout.Prepare(), data=gone, layout=str(path))
      assert told['box_labels'][0] == [3]
    else:
      with pytest.raises(UserError, match=says):
        inputs_of(layout.Prepare(), data=gone, layout=str(path))
  with pytest.raises(UserError, match='use numbers'):
    nowhere = DataSpec('folder', 32)
    inputs_of(layout.Prepare(), data=nowhere, layout=str(path))


def test_conditions_of_the_data_exclude_others(tmp_path):
  num, told, arrays = inputs_of(layout.Prepare(), inputs='test', num=4)
  assert num == 4 == len(told['boxes']) == len(arrays['tokens'])
  with pytest.raises(UserError, match='exclude'):
    inputs_of(layout.Prepare(), inputs='test', prompt=['x'])


def test_pictures_of_conditions(folder):
  _, _, arrays = inputs_of(inpainting.Prepare(), image=str(folder))
  ldm = types.SimpleNamespace(
    parts=types.SimpleNamespace(prepare=inpainting.Prepare(), data=SCENES)
  )
  picture = sample.condition_picture(ldm, arrays, 1, (16, 24))
  assert picture.shape == (16, 24, 3) and (picture == 127).all()
  ldm.parts.prepare = text.Prepare()
  assert sample.condition_picture(ldm, {}, 0, (16, 24)) is None


@pytest.mark.parametrize('size', ['8', '8x', '0x8', 'axb', '8x8x8'])
def test_sizes_that_are_none(size):
  with pytest.raises(UserError, match=f'--size={size} '):
    cli.size(size)
  assert cli.size('8x16') == (8, 16)


def test_an_image_serves_tasks_that_ask_for_none(folder):
  prepare = text.Prepare(vocab_file='scenes', length=16)
  num, _, arrays = inputs_of(
    prepare, image=str(folder / '1.png'), strength=0.5, prompt=['x'], num=2
  )
  assert num == 2 and set(arrays) == {'tokens', 'image'}
  assert arrays['image'].shape == (2, 16, 24, 3)
  num, _, arrays = inputs_of(prepare, image=str(folder), prompt=['x'])
  assert num == 3 and arrays['mask'].mean(axis=(1, 2)).tolist() == [0, 1, 0]
  with flagsaver.flagsaver(outpaint=['1', '2', '0', '0'], tile=64):
    others = sample.others_of_flags()
  assert others['outpaint'] == (1, 2, 0, 0) and others['tile'] == 64
  with flagsaver.flagsaver(outpaint=['1', 'x']):
    with pytest.raises(UserError, match='--outpaint=1,x must be'):
      sample.others_of_flags()


def test_guides_of_flags(folder):
  parts = types.SimpleNamespace(data=DataSpec('', 32))
  ldm = types.SimpleNamespace(parts=parts)
  assert sample.guides_of_flags(ldm, 2, None) == []
  with flagsaver.flagsaver(
    target=str(folder / '1.png'),
    target_mask=str(folder / '1_mask.png'),
    target_downsampling=4,
    target_scale=0.5,
  ):
    (guide,) = sample.guides_of_flags(ldm, 2, (16, 8))
  assert guide.rows['target'].shape == (2, 16, 8, 3)
  assert guide.rows['mask'].all() and guide.shared['scale'] == 0.5
  for wrong, says in (
    ({'classifier': 'x'}, '--classifier needs the class'),
    ({'target': 'nothing'}, '--target: nothing does not exist'),
    (
      {'target': str(folder / '1.png'), 'target_downsampling': 0},
      '--target_downsampling=0',
    ),
  ):
    with flagsaver.flagsaver(**wrong), pytest.raises(UserError, match=says):
      sample.guides_of_flags(ldm, 2, None)


def run(workdir, out, **given):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(workdir=str(workdir), out=str(out), **given):
    return sample.main()


@pytest.mark.parametrize(
  'wrong',
  [
    {'steps': 0},
    {'spacing': 'even'},
    {'eta': 2.0},
    {'size': '30x32'},
    {'size': '36x32'},
    {'strength': 0.5},
    {'mask': 'image'},
    {'inputs': 'typo', 'prompt': None},
    {'label': [3]},
  ],
)
def test_a_mistake_leaves_the_gallery_that_was_there(wrong, text_run, tmp_path):
  old = Gallery(tmp_path, 'Old')
  old.add(np.zeros((8, 8, 3), np.uint8), {})
  old.close()
  before = sorted(p.name for p in tmp_path.iterdir())
  if 'mask' in wrong:
    wrong = {'mask': str(tmp_path / before[0])}
  with pytest.raises(UserError):
    run(text_run, tmp_path, **{'prompt': ['x'], 'num': 1, **wrong})
  assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_one_of_several_processes_draws_nothing(tmp_path, monkeypatch):
  monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '2')
  with pytest.raises(UserError, match='one of several processes .SLURM.'):
    run('nowhere', tmp_path)


def test_a_first_stage_draws_nothing(vq_run, tmp_path):
  for given in ({'prompt': ['x']}, {'label': [1]}, {'inputs': 'test'}, {}):
    with pytest.raises(UserError, match='holds a first stage alone'):
      run(vq_run, tmp_path, **given)


@pytest.mark.parametrize('name', ['num', 'batch_size'])
def test_no_images_are_no_request(name):
  parse = flags.FLAGS[name].parser.parse
  assert parse('1') == 1
  with pytest.raises(ValueError):
    parse('0')
