"""Optimizers and learning-rate schedules."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ldm_jax.training.parallel import MIN_SHARDED_ELEMENTS
from ldm_jax.types import Array, UserError

SCHEDULES = ('constant', 'cosine', 'linear')
MOMENT_DTYPES = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class OptimSpec:
  """AdamW and its schedule; the release trains both stages with Adam family.

  Attributes:
    learning_rate: peak rate, or with `scale_lr` the rate per image.
    scale_lr: multiply by the global batch size, as the release's main.py does
      (accumulated batches x GPUs x batch size x base rate).
    schedule: what follows the warm-up: constant, cosine or linear.
    warmup_steps: the rate climbs linearly and reaches its peak at this step.
    hold_steps: cosine and linear keep the peak until this step; 0: until the
      warm-up ends.
    decay_steps: cosine and linear end at this step, and stay where they are; 0:
      at the last one.
    final_fraction: where cosine and linear end, as a share of the peak.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: decoupled, on every parameter as in PyTorch's AdamW; 0: Adam.
    clip_norm: largest global gradient norm; 0: no clipping.
    moment_dtype: of the first moment. The second stays float32: with
      b2 = 0.999 a step moves it by less than bfloat16 can resolve.
  """

  learning_rate: float
  scale_lr: bool = False
  schedule: str = 'constant'
  warmup_steps: int = 0
  hold_steps: int = 0
  decay_steps: int = 0
  final_fraction: float = 0.0
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.01
  clip_norm: float = 0.0
  moment_dtype: str = 'float32'

  def __post_init__(self):
    _require(self.learning_rate > 0, 'learning_rate', self, 'above 0')
    _require(
      self.schedule in SCHEDULES, 'schedule', self, f'one of {SCHEDULES}'
    )
    _require(self.warmup_steps >= 0, 'warmup_steps', self, '0 or more')
    _require(
      self.hold_steps == 0 or self.hold_steps >= self.warmup_steps,
      'hold_steps',
      self,
      f'{self.warmup_steps} (warmup_steps) or more, or 0 (until then)',
    )
    begins = 'hold_steps' if self.hold_steps else 'warmup_steps'
    _require(
      self.decay_steps == 0 or self.decay_steps > getattr(self, begins),
      'decay_steps',
      self,
      f'above {begins}={getattr(self, begins)}, or 0 (until the last step)',
    )
    for name in ('hold_steps', 'decay_steps'):
      _require(
        getattr(self, name) == 0 or self.schedule != 'constant',
        name,
        self,
        "0 with schedule='constant', which does not decay",
      )
    _require(0 <= self.final_fraction <= 1, 'final_fraction', self, 'in [0, 1]')
    _require(0 <= self.b1 < 1, 'b1', self, 'in [0, 1)')
    _require(0 <= self.b2 < 1, 'b2', self, 'in [0, 1)')
    _require(self.eps > 0, 'eps', self, 'above 0')
    _require(self.weight_decay >= 0, 'weight_decay', self, '0 or more')
    _require(self.clip_norm >= 0, 'clip_norm', self, '0 (no clipping) or more')
    _require(
      self.moment_dtype in MOMENT_DTYPES,
      'moment_dtype',
      self,
      f'one of {MOMENT_DTYPES}',
    )


def learning_rate(
  spec: OptimSpec, num_steps: int, batch_size: int
) -> optax.Schedule:
  """The rate as a function of the step; `batch_size` is the global one.

  Raises UserError where the warm-up does not fit into `num_steps`, or the rate
  is held until the last of them.
  """
  if spec.warmup_steps > num_steps:
    raise UserError(
      f'optim.warmup_steps={spec.warmup_steps} is longer than the whole run '
      f'(num_steps={num_steps}). Lower one or raise the other.'
    )
  if spec.hold_steps >= num_steps:
    raise UserError(
      f'optim.hold_steps={spec.hold_steps} leaves no step to decay in '
      f'(num_steps={num_steps}). Lower it, or set it to 0 to decay from the '
      'end of the warm-up on.'
    )
  peak = spec.learning_rate * (batch_size if spec.scale_lr else 1)
  first = spec.hold_steps or spec.warmup_steps
  last = spec.decay_steps or num_steps
  span = max(last - first, 1)

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    done = jnp.clip((step - first) / span, 0.0, 1.0)
    left = {
      'constant': jnp.ones_like(done),
      'cosine': 0.5 * (1.0 + jnp.cos(jnp.pi * done)),
      'linear': 1.0 - done,
    }[spec.schedule]
    if spec.schedule != 'constant':
      left = spec.final_fraction + (1.0 - spec.final_fraction) * left
    # Step 0 already moves: a first rate of zero would waste a batch.
    warm = jnp.minimum((step + 1.0) / max(spec.warmup_steps, 1), 1.0)
    return peak * left * warm

  return schedule


def make(
  spec: OptimSpec,
  num_steps: int,
  batch_size: int,
  frozen: tuple[str, ...] = (),
) -> optax.GradientTransformation:
  """Clipping, then AdamW (Adam where weight_decay is 0).

  The parts of the parameters named in `frozen` stay bit for bit what they are,
  weight decay included, and have no moments.
  """
  clip = (
    optax.clip_by_global_norm(spec.clip_norm)
    if spec.clip_norm
    else optax.identity()
  )
  adam = optax.adamw(
    learning_rate(spec, num_steps, batch_size),
    b1=spec.b1,
    b2=spec.b2,
    eps=spec.eps,
    mu_dtype=jnp.dtype(spec.moment_dtype),
    weight_decay=spec.weight_decay,
  )
  tx = optax.chain(clip, adam)
  if not frozen:
    return tx

  def labels(params):
    every = lambda tree, label: jax.tree.map(lambda _: label, tree)
    return {
      k: every(x, 'frozen' if k in frozen else 'trained')
      for k, x in params.items()
    }

  return optax.partition({'trained': tx, 'frozen': optax.set_to_zero()}, labels)


def global_norm(tree: Any) -> Array:
  """Root of the sum of squares of all numbers in the leaves: float32 scalar.

  As `optax.tree.norm`, but small leaves, none of which is ever sharded, are
  squared and summed as one: hundreds of operations less in a large network's
  program, which compiles and loads the faster.
  """
  leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
  parts = [leaf for leaf in leaves if leaf.size >= MIN_SHARDED_ELEMENTS]
  small = [leaf.ravel() for leaf in leaves if leaf.size < MIN_SHARDED_ELEMENTS]
  if small:
    parts.append(jnp.concatenate(small))
  return jnp.sqrt(sum(jnp.sum(jnp.square(part)) for part in parts))


def _require(holds: bool, name: str, spec: OptimSpec, allowed: str):
  if not holds:
    raise UserError(
      f'optim.{name}={getattr(spec, name)!r} is not allowed: it must be '
      f'{allowed}.'
    )
