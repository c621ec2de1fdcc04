"""How well a first stage gives images back."""

import numpy as np


def psnr(x: np.ndarray, y: np.ndarray, peak: float = 2.0) -> np.ndarray:
  """Peak signal-to-noise ratio in dB of [B H W C] pairs: [B].

  `peak` is the range of values: 2 for [-1, 1], 255 for uint8.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  error = np.mean(np.square(x - y), axis=(1, 2, 3))
  with np.errstate(divide='ignore'):
    return 10.0 * np.log10(peak**2 / error)
