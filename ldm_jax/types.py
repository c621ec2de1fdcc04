"""Words the whole project shares.

Shape comments use these letters and no others:
  B batch      H W C  image height, width, channels
  T timesteps  h w c  latent height, width, channels
  S steps      L D    context length and width      E time-embedding width
  N tokens or objects
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax

Array = jax.Array
Batch = Mapping[str, Array]
Params = Mapping[str, Any]

# (z_t [B h w c], t [B], whole or fractional) -> predicted noise [B h w c].
Denoiser = Callable[[Array, Array], Array]


class UserError(ValueError):
  """A mistake of the user's: scripts print its message and exit with 2.

  The message says what is wrong, its value, what is allowed, and what to do.
  """


@flax.struct.dataclass
class Conditioning:
  """All that the U-Net is told; every field may be absent.

  `concat` and `context` at once is the paper's hybrid case (Sec. 3.3).
  """

  concat: Array | None = None  # [B h w k], joined to z_t along channels.
  context: Array | None = None  # [B L D], read by cross-attention.
  vector: Array | None = None  # [B E], added to the time embedding.
