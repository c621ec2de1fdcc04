"""Tests for ldm_jax.data.scene_captions."""

import pytest

from ldm_jax.data import scene_captions
from ldm_jax.data.scene_captions import Thing, caption, parse_caption
from ldm_jax.types import UserError


def test_every_caption_of_one_thing_is_read_back_and_is_unique():
  captions = scene_captions.all_captions()
  assert len(set(captions)) == len(captions) == 8 * 5 * 9 * 5
  for text in captions:
    (thing,) = parse_caption(text)
    assert text in [caption([thing], template) for template in range(5)]


def test_three_things_are_read_back_in_order_in_every_phrasing():
  things = [
    Thing('red', 'circle', 'top left'),
    Thing('orange', 'ring', 'center'),
    Thing('pink', 'cross', 'bottom'),
  ]
  for template in range(scene_captions.NUM_TEMPLATES):
    assert parse_caption(caption(things, template)) == things


def test_captions_are_english():
  things = [Thing('orange', 'cross', 'top'), Thing('red', 'ring', 'left')]
  assert (
    caption(things) == 'an orange cross at the top and a red ring on the left'
  )


@pytest.mark.parametrize(
  'text', ['', 'a red circle', 'a maroon circle on the left', 'left', 'a dog']
)
def test_other_sentences_are_refused_with_an_example(text):
  with pytest.raises(UserError, match='a red circle in the top left'):
    parse_caption(text)
