"""What is said of flags that cannot be read."""

import pytest
from ml_collections import config_dict

from ldm_jax import command


@pytest.mark.parametrize(
  ('error', 'said'),
  [
    (ValueError('plain'), 'plain'),
    (KeyError("it's not there"), "it's not there"),
    (AttributeError(KeyError('of a config')), 'of a config'),
    (ValueError('several\n  lines'), 'several lines'),
    (
      OSError('Traceback (most recent call last):\n  x\nOSError: no file'),
      'no file',
    ),
  ],
)
def test_an_error_is_one_line_of_what_is_wrong(error, said):
  assert command.in_one_line(error) == said


def test_an_unknown_key_of_a_config_is_named_with_the_nearest():
  config = config_dict.ConfigDict({'unet': {'channels': 3}})
  with pytest.raises(AttributeError) as caught:
    _ = config.unet.chanels
  said = command.in_one_line(caught.value)
  assert 'chanels' in said and '"channels"' in said and '\n' not in said
