"""Wrong values of the data section are refused with what is allowed."""

import pytest

from ldm_jax.data.spec import DataSpec
from ldm_jax.types import UserError


@pytest.mark.parametrize(
  'key, value, allowed',
  [
    ('crop', 'middle', 'center, random'),
    ('resample', 'nearest', 'lanczos, bicubic'),
    ('size', 0, '1 or more'),
    ('num_workers', -1, '0 or more'),
    ('num_examples', -1, '0 or more'),
    ('holdout', 1.0, 'below 1'),
    ('holdout', -0.1, 'below 1'),
    ('max_bad', 2.0, 'below 1'),
    ('resize', 7, 'data.size=8 or more'),
    ('resize', -2, '-1 .as stored'),
    ('min_crop', 0.0, 'above 0'),
    ('min_crop', 1.5, '1 at most'),
    ('min_crop', 0.5, "needs data.crop='random'.* 'center' and 0"),
  ],
)
def test_wrong_values_are_named(key, value, allowed):
  with pytest.raises(UserError, match=f'data.{key}={value!r}.*{allowed}'):
    DataSpec(**{'source': 'folder', 'size': 8, key: value})


def test_shares_of_a_part_of_the_shorter_side_are_refused():
  with pytest.raises(UserError, match="data.resize=0, .*'random' and 16"):
    DataSpec('folder', 8, crop='random', resize=16, min_crop=0.5)


def test_what_is_kept_on_disk_is_known_by_what_it_was_before():
  old, new = (
    DataSpec('folder', 8, resize=resize).told(('flip',)) for resize in (0, 9)
  )
  assert not old.keys() & {'flip', 'resize', 'min_crop'}
  assert new == old | {'resize': 9}
