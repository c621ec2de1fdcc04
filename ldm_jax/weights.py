"""The weights that a config wants: their shapes, and values for a start."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from ldm_jax import build
from ldm_jax.interop.imported import complete
from ldm_jax.parts import Parts
from ldm_jax.types import UserError


def untrained(config: Mapping[str, Any]) -> dict[str, Any]:
  """Untrained trees of every item, for what a lenient import lacks."""
  rng = np.random.default_rng(0)
  shapes = abstract(build.parts(complete(dict(config))))
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: _fresh(rng, path[-1].key, leaf.shape), shapes
  )


def _fresh(rng: np.random.Generator, name: str, shape) -> np.ndarray:
  if name == 'scale':
    return np.ones(shape, np.float32)
  if name not in ('kernel', 'embedding'):
    return np.zeros(shape, np.float32)
  fan_in = np.prod(shape[:-1]) if name == 'kernel' else 1.0
  return rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(fan_in))


def abstract(parts: Parts) -> dict[str, Any]:
  """The trees of every item, abstract: nothing is computed."""

  def init():
    rng = jax.random.key(0)
    items = {'first_stage': build.init_first_stage(parts, rng)}
    if parts.model is None:
      return items
    state = build.init_diffusion_state(parts, optax.identity(), rng)
    return {**items, 'model': state.params, 'ema': state.ema}

  return jax.eval_shape(init)


def check(parts: Parts, items: Mapping[str, Any]):
  """Raises UserError unless the trees are the networks', to the last shape."""
  wanted = flat(abstract(parts))
  given = {k: v for k, v in flat(items).items() if k[0] != 'carried'}
  wrong = [
    f'{"/".join(key)}: {_shape(given, key)} instead of {_shape(wanted, key)}'
    for key in sorted(wanted.keys() | given.keys())
    if _shape(wanted, key) != _shape(given, key)
  ]
  if wrong:
    raise UserError(f'The weights are of another network. {"; ".join(wrong)}.')


def flat(tree: Mapping, prefix: tuple = ()) -> dict[tuple, Any]:
  """Leaves by their path."""
  found = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      found |= flat(value, (*prefix, key))
    else:
      found[*prefix, key] = value
  return found


def _shape(leaves: Mapping[tuple, Any], key: tuple) -> str:
  return str(list(leaves[key].shape)) if key in leaves else 'nothing'
