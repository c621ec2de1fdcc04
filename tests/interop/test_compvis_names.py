"""The release's names: every file of weights, to the last shape.

`released_names.json` has, for each released checkpoint, how many tensors and
elements it holds and a digest of its sorted "name [shape]" lines. With the full
lists at hand, $LDM_COMPVIS_NAMES names their folder, and a difference is shown
by name.
"""

import functools
import hashlib
import json
import math
import os
import pathlib

import jax
import pytest

from ldm_jax import build
from ldm_jax.interop import (
  compvis_buffers,
  compvis_config,
  compvis_names,
  compvis_release,
  imported,
)
from tests.interop import released

FACTS = json.loads(
  (pathlib.Path(__file__).parent / 'released_names.json').read_text()
)

KINDS = {**released.CONFIGS, **released.MORE}


def shapes(content: dict) -> dict[str, list[int]]:
  """Names and shapes of the checkpoint that a config makes, EMA included."""
  read = compvis_config.read(content)
  rows = compvis_names.table(read.config)
  if read.use_ema:
    rows += compvis_names.ema(rows)
  found = {
    row.theirs: list(row.shape)
    for row in rows + compvis_names.unused(read.config)
  }
  if 'unet' not in read.config:
    return found
  found |= {name: [1000] for name in compvis_buffers.NAMES}
  if read.use_ema:
    found |= {'model_ema.decay': [], 'model_ema.num_updates': []}
  if read.scale_by_std:
    found['scale_factor'] = []
  if read.config['task']['name'] == 'inpainting':
    found |= {
      name.replace('first_stage_model.', 'cond_stage_model.', 1): shape
      for name, shape in found.items()
      if name.startswith('first_stage_model.')
    }
  return found


def digest(found: dict[str, list[int]]) -> dict:
  lines = sorted(f'{name} {shape}' for name, shape in found.items())
  return {
    'tensors': len(found),
    'elements': sum(map(math.prod, found.values())),
    'sha256': hashlib.sha256('\n'.join(lines).encode()).hexdigest(),
  }


def test_every_released_file_is_restated():
  assert released.CONFIGS.keys() == FACTS.keys()


@pytest.mark.parametrize('name', FACTS)
def test_names_and_shapes_are_the_released_ones(name):
  found = shapes(released.CONFIGS[name]())
  if folder := os.environ.get('LDM_COMPVIS_NAMES'):
    path = pathlib.Path(folder) / f'{name}.json'
    assert found == json.loads(path.read_text())
  assert digest(found) == FACTS[name]


@pytest.mark.parametrize('name', FACTS)
def test_no_name_stands_for_two_tensors(name):
  read = compvis_config.read(released.CONFIGS[name]())
  rows = compvis_names.table(read.config)
  rows += compvis_names.ema(rows)
  assert len({row.theirs for row in rows}) == len(rows)
  assert len({row.ours for row in rows}) == len(rows)


@pytest.mark.parametrize('name', KINDS)
def test_the_table_has_the_parameters_of_our_networks(name):
  make = KINDS[name]
  config = compvis_config.read(released.tiny(make())).config
  config = imported.complete(config)
  parts = build.parts(config)
  tree = {
    'first_stage': jax.eval_shape(
      functools.partial(build.init_first_stage, parts), jax.random.key(0)
    )
  }
  if parts.model is not None:
    tree['model'] = jax.eval_shape(
      lambda rng: build.init_diffusion_state(parts, _NoOptimizer, rng).params,
      jax.random.key(0),
    )
  wanted = {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
  rows = compvis_names.table(config)
  assert {row.ours: row.our_shape for row in rows} == wanted


class _NoOptimizer:
  @staticmethod
  def init(params):
    del params


@pytest.mark.parametrize('name', KINDS)
def test_configs_go_there_and_back(name):
  make = KINDS[name]
  read = compvis_config.read(make())
  meta = {
    'use_ema': read.use_ema,
    'scale_factor': read.config.get('scale_factor'),
    'source': {'scale_by_std': read.scale_by_std},
  }
  again = compvis_config.read(compvis_release.write(read.config, meta))
  assert again.notes == []
  assert again.config == read.config
  assert (again.use_ema, again.scale_by_std) == (
    read.use_ema, read.scale_by_std,
  )  # fmt: skip
