"""What is asked for makes sense before anything is opened."""

import pytest

from ldm_jax.measuring.options import Options
from ldm_jax.types import UserError


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      {'samples': 'x', 'metrics': ('beauty',)},
      "'beauty' is unknown; known: fid",
    ),
    ({}, '--workdir, a run, or --samples'),
    ({'samples': 'x', 'num': 0}, '--num=0'),
    ({'workdir': 'x', 'masks': 'thick'}, "--masks='thick' .* thick_256"),
    ({'samples': 'x', 'masks': 'thick_256'}, '--masks=.* drawn already'),
  ],
)
def test_options_are_checked_before_anything_is_opened(options, message):
  with pytest.raises(UserError, match=message):
    Options(**options)
