"""What the parity tests share: random weights, and how far two arrays are."""

import flax
import jax
import numpy as np
import torch

from ldm_jax.interop import diffusers_names, names


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
  """Every parameter, zero-initialised ones too, at a scale that keeps signals.

  Also puts the module in evaluation mode.
  """
  generator = torch.Generator().manual_seed(seed)
  draw = lambda p: torch.randn(p.shape, generator=generator)
  with torch.no_grad():
    for name, p in module.named_parameters():
      if p.ndim > 1 and 'embed' not in name.split('.')[-2]:
        p.copy_(draw(p) / p[0].numel() ** 0.5)
      elif p.ndim > 1:
        p.copy_(draw(p))
      elif name.endswith('weight'):
        p.copy_(1 + 0.2 * draw(p))
      else:
        p.copy_(0.2 * draw(p))
  return module.eval()


def to_ours(rows, tensors, section=None) -> dict:
  """Their tensors by name -> our trees, {item: {...}}, through a table.

  `section` is the U-Net's, where q, k and v are to be fused.
  """
  tensors = {k: np.asarray(v.detach()) for k, v in tensors.items()}
  assert not names.compare(
    [part for row in rows for part in diffusers_names.parts(row)], tensors
  )
  tensors = diffusers_names.fuse(rows, tensors, section or {})
  return names.to_ours(rows, tensors)


def gradients(module: torch.nn.Module) -> dict:
  return {name: p.grad for name, p in module.named_parameters()}


def nchw(x) -> torch.Tensor:
  return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


def nhwc(x: torch.Tensor) -> np.ndarray:
  return x.detach().numpy().transpose(0, 2, 3, 1)


def error(ours, theirs) -> float:
  """Largest difference, in standard deviations of what should be."""
  ours, theirs = np.asarray(ours), np.asarray(theirs)
  assert ours.shape == theirs.shape
  return float(np.abs(ours - theirs).max() / theirs.std())


def assert_gradients_close(ours: dict, theirs: dict, tolerance: float):
  """Leaf by leaf; `ours` and `theirs` are trees of one structure."""
  ours = flax.traverse_util.flatten_dict(jax.device_get(ours), sep='/')
  theirs = flax.traverse_util.flatten_dict(theirs, sep='/')
  assert ours.keys() == theirs.keys()
  errors = {name: error(ours[name], theirs[name]) for name in ours}
  worst = {k: v for k, v in errors.items() if not v <= tolerance}
  assert not worst, worst
