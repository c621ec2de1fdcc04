"""Model cards say what a model is, and nothing about the machine."""

import numpy as np

from ldm_jax.interop import card, compvis_config
from tests.interop import released

ITEMS = {
  'first_stage': {'a': np.zeros((10, 10))},
  'model': {'unet': {'a': np.zeros((20, 30))}},
}


def config(**sections) -> dict:
  found = compvis_config.read(released.text()).config
  found['data'] = {'size': 256, 'source': 'folder', 'path': '/home/me/photos'}
  return {**found, **{k: {**found[k], **v} for k, v in sections.items()}}


def test_it_says_what_it_is():
  text = card.compvis(config(), ITEMS, {'scale_factor': 0.25}, 1234)
  for words in (
    '256 x 256', 'task `text`', '| parameters, model | 600 |', '0.25',
    '1,234', '## Limits', 'config.yaml',
  ):  # fmt: skip
    assert words in text
  assert 'home' not in text


def test_it_warns_of_what_the_authors_code_does_otherwise():
  own = config(loss={'prediction': 'v'}, task={'vocab_file': '/home/me/v.txt'})
  text = card.compvis(own, ITEMS, {'scale_factor': 1.0}, 1)
  assert 'predicts v' in text and 'bert-base-uncased' in text
  assert 'home' not in text
  plain = card.compvis(config(), ITEMS, {'scale_factor': 1.0}, 1)
  assert 'predicts v' not in plain and 'bert-base-uncased' not in plain


def test_imports_say_so():
  meta = {'scale_factor': 1.0, 'source': {'format': 'compvis'}}
  assert 'imported model' in card.safetensors(config(), ITEMS, meta, 0)


def test_first_stages_have_one_too():
  found = compvis_config.read(released.first_stage_config('kl-f8')).config
  items = {'first_stage': ITEMS['first_stage']}
  text = card.compvis(
    found | {'data': {'size': 64, 'source': 'x'}}, items, {}, 5
  )
  assert 'A first stage (`kl` autoencoder)' in text
