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
  ],
)
def test_wrong_values_are_named(key, value, allowed):
  with pytest.raises(UserError, match=f'data.{key}={value!r}.*{allowed}'):
    DataSpec(**{'source': 'folder', 'size': 8, key: value})
