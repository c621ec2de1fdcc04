"""Our configs as YAML; there and back is in test_compvis_names."""

import pytest
import yaml

from ldm_jax.interop import compvis_config, compvis_release
from ldm_jax.types import UserError
from tests.interop import released


def config(make=released.text, **sections) -> dict:
  found = compvis_config.read(make()).config
  return {**found, **{k: {**found[k], **v} for k, v in sections.items()}}


def test_it_has_the_keys_of_the_released_one():
  meta = {'scale_factor': 1.0}
  ours = compvis_release.write(config(), meta)['model']
  theirs = released.text()['model']
  assert ours['target'] == theirs['target']
  for key, value in theirs['params']['unet_config']['params'].items():
    mine = ours['params']['unet_config']['params'][key]
    same = sorted if key == 'attention_resolutions' else lambda x: x
    assert same(mine) == same(value), key
  first = ours['params']['first_stage_config']
  assert first['target'] == theirs['params']['first_stage_config']['target']
  assert compvis_config.read(
    yaml.safe_load(yaml.safe_dump({'model': ours}))
  ).notes == []  # fmt: skip


def test_tuples_of_a_config_are_plain_lists_there():
  text = yaml.safe_dump(compvis_release.write(config(), {}))
  assert '!!' not in text


def test_a_scale_is_a_buffer_or_a_number():
  write = lambda meta: compvis_release.write(config(), meta)['model']['params']
  assert write({'scale_factor': 0.3})['scale_factor'] == 0.3
  params = write({'scale_factor': 0.3, 'source': {'scale_by_std': True}})
  assert params['scale_by_std'] and 'scale_factor' not in params


@pytest.mark.parametrize(
  ('sections', 'named'),
  [
    ({'unet': {'norm_groups': 16}}, 'unet.norm_groups=32'),
    ({'first_stage': {'norm_groups': 8}}, 'first_stage.norm_groups=32'),
    ({'task': {'num_heads': 4}}, 'task.num_heads=8'),
    ({'task': {'head_width': 32}}, 'task.head_width=64'),
    ({'task': {'name': 'inpainting_text'}}, 'task.hole=0.0'),
    (
      {'task': {'name': 'inpainting_clip_text', 'mask_low': -1.0}},
      'task.mask_low=0.0',
    ),
    ({'task': {'name': 'inpainting', 'hole': 0.0}}, 'task.hole=-1.0'),
    ({'task': {'name': 'a task of mine'}}, "'a task of mine'"),
    (
      {'first_stage': {'mid_attention': False, 'attention_levels': (1,)}},
      'first_stage.mid_attention=True',
    ),
  ],
)
def test_what_the_release_cannot_hold_is_refused(sections, named):
  with pytest.raises(UserError, match=named):
    compvis_release.write(config(**sections), {})


@pytest.mark.parametrize(
  ('task', 'named'),
  [
    ({'width': 1024}, 'task.width=768'),
    ({'activation': 'gelu'}, 'task.activation=quick_gelu'),
    ({'ffn_width': 2048}, 'task.ffn_width=0'),
    ({'vocab_size': 49409}, 'task.vocab_size=49408'),
  ],
)
def test_only_openais_clip_goes_without_a_name(task, named):
  found = config(released.stable_diffusion)
  write = lambda task, meta: compvis_release.write(
    {**found, 'task': {**found['task'], **task}}, meta
  )['model']['params']['cond_stage_config']
  plain = {'target': 'ldm.modules.encoders.modules.FrozenCLIPEmbedder'}
  assert write({'ffn_width': 3072, 'activation': 'quick_gelu'}, {}) == plain
  with pytest.raises(UserError, match=named):
    write(task, {'source': {'format': 'diffusers'}})
  assert write(task, {'source': {'format': 'compvis'}}) == plain


def test_first_stages_keep_their_losses_settings():
  content = released.first_stage_config('vq-f4')
  content['model']['params']['lossconfig']['params'] |= {
    'disc_weight': 0.75, 'codebook_weight': 1.0, 'disc_num_layers': 2,
  }  # fmt: skip
  found = compvis_config.read(content).config
  again = compvis_release.write(found, {})
  assert (
    again['model']['params']['lossconfig']
    == (content['model']['params']['lossconfig'])
  )
