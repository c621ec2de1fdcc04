"""The language of `scenes`: a small grammar, written and read."""

import dataclasses
import itertools
import re
from collections.abc import Sequence

from ldm_jax.types import UserError

COLOURS = (
  'red', 'orange', 'yellow', 'green', 'cyan', 'blue', 'purple', 'pink',
)  # fmt: skip
SHAPES = ('circle', 'square', 'triangle', 'cross', 'ring')
PLACES = (
  'top left', 'top', 'top right',
  'left', 'center', 'right',
  'bottom left', 'bottom', 'bottom right',
)  # fmt: skip

# How a place is said; the first phrase is the usual one.
_PHRASES = {
  'top left': ('in the top left', 'in the top left corner'),
  'top': ('at the top', 'near the top'),
  'top right': ('in the top right', 'in the top right corner'),
  'left': ('on the left', 'near the left'),
  'center': ('in the center', 'in the middle'),
  'right': ('on the right', 'near the right'),
  'bottom left': ('in the bottom left', 'in the bottom left corner'),
  'bottom': ('at the bottom', 'near the bottom'),
  'bottom right': ('in the bottom right', 'in the bottom right corner'),
}

# (prefix of the sentence, one thing, which phrase for a place)
_TEMPLATES = (
  ('', '{thing} {place}', 0),
  ('', '{thing} {place}', 1),
  ('there is ', '{thing} {place}', 0),
  ('a picture of ', '{thing} {place}', 0),
  ('', '{place} {thing}', 0),
)
NUM_TEMPLATES = len(_TEMPLATES)

_COLOUR_OR_SHAPE = re.compile(
  rf'\b({"|".join(COLOURS)}) ({"|".join(SHAPES)})\b'
)
_PLACE = re.compile(
  r'\b(top|bottom)(?: (left|right))?\b|\b(left|right|center|middle)\b'
)


@dataclasses.dataclass(frozen=True)
class Thing:
  """An object as a caption names it."""

  colour: str
  shape: str
  place: str


def caption(things: Sequence[Thing], template: int = 0) -> str:
  """The caption of some things, in one of NUM_TEMPLATES phrasings."""
  prefix, form, phrase = _TEMPLATES[template]
  said = [
    form.format(
      thing=f'{"an" if t.colour == "orange" else "a"} {t.colour} {t.shape}',
      place=_PHRASES[t.place][phrase],
    )
    for t in things
  ]
  *first, last = said
  return prefix + (f'{", ".join(first)} and {last}' if first else last)


def parse_caption(text: str) -> list[Thing]:
  """The things that a caption names, in its order.

  Raises UserError where it is not a caption of `scenes`: every clause needs
  one colour, shape and place.
  """
  things = []
  for clause in re.split(r',| and ', text.lower()):
    named = _COLOUR_OR_SHAPE.findall(clause)
    places = _PLACE.findall(clause)
    if len(named) != 1 or len(places) != 1:
      raise UserError(
        f'{text!r} is not a caption of scenes. Say it like {EXAMPLE!r}, with'
        f' colours {", ".join(COLOURS)}, shapes {", ".join(SHAPES)} and'
        f' places {", ".join(PLACES)}.'
      )
    place = ' '.join(word for word in places[0] if word)
    things.append(Thing(*named[0], place.replace('middle', 'center')))
  return things


EXAMPLE = caption([Thing('red', 'circle', 'top left')])


def all_captions() -> list[str]:
  """Every caption of one thing: colours x shapes x places x phrasings."""
  return [
    caption([Thing(*triple)], template)
    for triple in itertools.product(COLOURS, SHAPES, PLACES)
    for template in range(NUM_TEMPLATES)
  ]
