"""What is drawn again and again while a run trains."""

import numpy as np
import pytest

from ldm_jax import build, panel
from ldm_jax import run as runs
from tests import tiny


@pytest.mark.parametrize('wanted', [2, 9])
def test_the_same_held_out_examples_fill_every_device(wanted):
  run = runs.open_run(build.parts(tiny.diffusion(sampling={'num': wanted})))
  one, two = panel.Panel(run), panel.Panel(run)
  assert one.count == wanted
  rows = {len(value) for value in one.batch.values()}
  assert len(rows) == 1 and rows.pop() % run.mesh.size == 0
  np.testing.assert_array_equal(one.batch['image'], two.batch['image'])
  np.testing.assert_allclose(
    one.batch['image'][0], run.eval_source[0]['image'] / 127.5 - 1, atol=1e-6
  )
