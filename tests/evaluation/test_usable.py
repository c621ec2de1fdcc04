"""Images that cannot be used are left out: told, counted, looked for once."""

import numpy as np
import pytest

from ldm_jax.evaluation.image_sets import ImageSet, Unusable
from ldm_jax.evaluation.usable import sentence, usable
from ldm_jax.types import UserError


class Stored:
  """100 images whose pixels are their numbers; those in `bad` are damaged."""

  def __init__(self, *bad):
    self.bad, self.asked = bad, []

  def read(self, index):
    self.asked.append(index)
    if index in self.bad:
      raise Unusable(f'{index}.png: cut off.')
    return np.full((2, 2, 3), index, np.uint8)

  def images(self):
    return ImageSet('photos', 100, self.read, lambda: 'x' * 64, stored=True)


def opened(stored, cache, num=100, share=0.1):
  return usable(stored.images(), num, share, str(cache), lambda line: None)


def test_bad_images_are_left_out_and_the_rest_stay_in_order(tmp_path, caplog):
  found = opened(Stored(3, 98), tmp_path)
  read = [int(x[0, 0, 0]) for batch in found.batches(7) for x in batch]
  assert read == [i for i in range(100) if i not in (3, 98)]
  assert (found.count, found.left_out) == (98, 2)
  said = '2 of 100 images of photos cannot be used and are left out.'
  assert sentence(found) == f'{said} The first: 3.png: cut off.'
  assert said in caplog.text
  assert found.digest() == 'x' * 64


def test_a_set_is_looked_through_once_and_no_further_than_asked(tmp_path):
  stored = Stored(3)
  found = opened(stored, tmp_path, num=10)
  assert (found.count, found.left_out) == (10, 1)
  assert found.digest() == 'x' * 64 + ':10'
  assert len(stored.asked) == len(set(stored.asked))
  stored.asked.clear()
  assert opened(stored, tmp_path, num=10).count == 10 and not stored.asked
  assert opened(stored, tmp_path).count == 99  # Goes on where it was left.
  assert 0 not in stored.asked
  stored.asked.clear()
  assert opened(stored, tmp_path).count == 99 and not stored.asked
  for path in tmp_path.iterdir():
    path.write_text('{"re')
  assert opened(stored, tmp_path).count == 99


def test_a_whole_set_is_what_it_was(tmp_path, caplog):
  found = opened(Stored(), tmp_path)
  assert (found.count, found.left_out, found.why) == (100, 0, '')
  assert not caplog.records


def test_too_many_are_refused(tmp_path):
  message = r'11 of the 100 .* photos .* the 10.0% of data.max_bad.*0.png: cut'
  with pytest.raises(UserError, match=message):
    opened(Stored(*range(0, 99, 9)), tmp_path)
  opened(Stored(*range(0, 99, 9)), tmp_path, share=0.2)
  with pytest.raises(UserError, match=message):  # Known from before.
    opened(Stored(), tmp_path)
  with pytest.raises(UserError, match='5.png: cut off'):
    opened(Stored(5), tmp_path / 'new', share=None)
