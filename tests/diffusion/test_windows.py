"""Windows together are the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import windows
from ldm_jax.types import Conditioning, UserError

RNG = np.random.default_rng(0)
Z = RNG.standard_normal((2, 11, 16, 3)).astype(np.float32)
T = np.array([3, 8])


def pointwise(z, t, cond):
  """A network that looks at no neighbour: windows cannot matter to it."""
  time = jnp.asarray(t)[:, None, None, None]
  return jnp.sin(z) * time + cond.concat[..., :1] + cond.vector[:, None, None]


@pytest.mark.parametrize('overlap', [0, 3, 5])
def test_windows_of_a_pointwise_network_are_its_whole(overlap):
  cond = Conditioning(
    concat=RNG.standard_normal((2, 11, 16, 2)).astype(np.float32),
    vector=RNG.standard_normal((2, 3)).astype(np.float32),
  )
  split = jax.jit(windows.windowed(pointwise, 6, overlap))
  np.testing.assert_allclose(
    split(Z, T, cond), pointwise(Z, T, cond), atol=1e-5
  )


def test_one_window_is_the_network_itself():
  around = lambda z, t, cond: jnp.roll(z, 1, 1)
  whole = windows.windowed(around, 16, 4)(Z, T, Conditioning())
  np.testing.assert_array_equal(whole, np.roll(Z, 1, 1))


def test_overlaps_change_gradually():
  # Every window answers with its own constant: the mean of what it sees.
  level = np.repeat(np.arange(2.0, dtype=np.float32), 12)[None, None, :, None]
  z = np.broadcast_to(level, (1, 12, 24, 1))
  mean = lambda z, t, cond: jnp.full_like(z, z.mean())
  seen = [
    float(np.abs(np.diff(windows.windowed(mean, 12, n)(z, T[:1], Conditioning())
                         [0, 5, :, 0])).max())
    for n in (0, 6)
  ]  # fmt: skip
  assert seen[1] < seen[0] / 2


@pytest.mark.parametrize(
  ('length', 'overlap'), [(6, 2), (6, 6), (7, 0), (40, 5)]
)
def test_windows_cover_a_side(length, overlap):
  begin = windows.starts(length, 6, overlap)
  assert begin[0] == 0 and begin[-1] == length - 6
  assert (np.diff(begin) <= 6 - overlap).all()
  assert length > 6 or len(begin) == 1
  assert windows.bump(6, overlap).min() > 0


def test_a_window_of_pixels_overlaps_by_a_quarter_in_whole_latents():
  assert windows.in_latents(64, None, 4, 8) == (16, 4)
  assert windows.in_latents(96, None, 16, 2) == (6, 1)
  assert windows.in_latents(64, 0, 4, 8) == (16, 0)
  with pytest.raises(UserError, match="the first stage's f=4"):
    windows.in_latents(64, 6, 4, 8)


def test_windows_that_the_network_cannot_take_are_refused():
  windows.check(16, 4, 8)
  with pytest.raises(UserError, match='12x12 latents does not divide by 8'):
    windows.check(12, 4, 8)
  with pytest.raises(UserError, match='overlap by 16'):
    windows.check(16, 16, 8)
