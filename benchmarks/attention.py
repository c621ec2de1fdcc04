"""Attention's formulations on this device, in one process.

  python -m benchmarks.attention

'weights': the softmax's weights are divided by their sums, as textbooks have
it. 'whole': the result is divided instead. 'chosen': what `attend` does, which
on a CPU walks large heads one by one.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import harness, networks, programs
from benchmarks.sides import Case
from ldm_jax import cli
from ldm_jax.nn import attention

_SHAPES = flags.DEFINE_list(
  'shapes',
  ['1x1024x14x32', '1x256x21x32', '1x4096x8x40', '1x1024x8x80'],
  'B x N x H x D of queries; keys and values are alike.',
)


def divided_weights(q, k, v):
  scale = q.shape[-1] ** -0.25
  logits = jnp.einsum(
    'bnhd,blhd->bhnl', q * scale, k * scale,
    preferred_element_type=jnp.float32,
  )  # fmt: skip
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return jnp.einsum('bhnl,blhd->bnhd', weights, v)


def ldm_jax(spec, folder) -> Case:
  del folder
  rng = np.random.default_rng(0)
  dtype = networks.DTYPES[spec['dtype']]
  q, k, v, dy = (
    jnp.asarray(rng.normal(size=spec['shape']), dtype) for _ in range(4)
  )

  def both(attend):
    def run(q, k, v, dy):
      y, pull = jax.vjp(attend, q, k, v)
      return y, pull(dy)

    return run

  whole = lambda q, k, v: attention._attend_whole(q, k, v, False)
  forms = {}
  for name, attend in (
    ('weights', divided_weights),
    ('whole', whole),
    ('chosen', attention.attend),
  ):
    forward = programs.Program(attend, (q, k, v))
    training = programs.Program(both(attend), (q, k, v, dy))
    forms[f'{name} forward'] = lambda p=forward: jax.block_until_ready(
      p(q, k, v)
    )
    forms[f'{name} both'] = lambda p=training: jax.block_until_ready(
      p(q, k, v, dy)
    )
  return Case(forms, programs.versions())


def gains(forms) -> dict[str, float]:
  """How many times faster than 'weights', paired by round."""
  seconds = {name.split(', ')[1]: f['seconds'] for name, f in forms.items()}
  return {
    f'{name} {what}': harness.quartiles(
      [
        a / b
        for a, b in zip(seconds[f'weights {what}'], seconds[f'{name} {what}'])
      ]
    )[1]
    for name in ('whole', 'chosen')
    for what in ('forward', 'both')
  }


def main() -> int:
  rows = []
  for shape in _SHAPES.value:
    spec = {
      'shape': [int(n) for n in shape.split('x')],
      'dtype': harness.DTYPE.value,
    }
    row = harness.compare('attention', spec, ['ldm_jax'])
    row['figures'] = gains(row['forms'])
    rows.append(row)
  return harness.finish('attention', rows)


if __name__ == '__main__':
  cli.run(main)
