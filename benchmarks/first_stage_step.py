"""A training step of a first stage with its discriminator, beside torch.

  python -m benchmarks.first_stage_step [--models=kl_f8,vq_f4 --batches=1]

At 256 px, discriminator on, adaptive weight on, without LPIPS (whose weights
are not ours to hand out). The peer is diffusers' autoencoder and the release's
game in its cheapest form: one forward pass of the autoencoder for both turns.
"""

import jax
import numpy as np
from absl import flags

from benchmarks import harness, networks, programs
from benchmarks.sides import Case
from configs.first_stage import kl_f8, vq_f4
from ldm_jax import build, cli
from ldm_jax.first_stage.losses import LossSpec
from ldm_jax.interop import diffusers_release
from ldm_jax.training import first_stage_step, guard, optim

_MODELS = flags.DEFINE_list('models', ['kl_f8', 'vq_f4'], 'Which.')
_BATCHES = flags.DEFINE_list('batches', ['1'], 'Batch sizes.')
_PIXELS = flags.DEFINE_integer('pixels', 256, 'Side of the images.')

# Of both losses; the discriminator takes part from the first step.
WEIGHTS = dict(disc_weight=0.5, disc_start=0, disc_channels=64, disc_layers=3)
KL_WEIGHT, CODEBOOK_WEIGHT = 1e-6, 1.0
LEARNING_RATE, B1 = 4.5e-6, 0.5


def section(name: str) -> dict:
  known = {'kl_f8': kl_f8, 'vq_f4': vq_f4}
  if name == 'tiny':
    whole = section('kl_f8')
    return {**whole, 'channels': 32, 'multipliers': (1, 1)}
  model = known[name].get_model()
  return {k: v for k, v in model.items() if k != 'attention_backend'}


def images(spec) -> np.ndarray:
  """[B H W 3] in [-1, 1]."""
  rng = np.random.default_rng(0)
  shape = (spec['batch'], spec['side'], spec['side'], 3)
  return rng.uniform(-1, 1, shape).astype(np.float32)


def ldm_jax(spec, folder) -> Case:
  del folder
  model = build.first_stage(
    section(spec['model']), networks.DTYPES[spec['dtype']]
  )
  loss = LossSpec(
    perceptual_weight=0.0, kl_weight=KL_WEIGHT,
    codebook_weight=CODEBOOK_WEIGHT, **WEIGHTS,
  )  # fmt: skip
  adam = lambda: optim.make(
    optim.OptimSpec(learning_rate=LEARNING_RATE, b1=B1, weight_decay=0.0),
    10**6, 1,
  )  # fmt: skip
  tx, disc_tx = adam(), adam()
  step = guard.guarded(
    first_stage_step.make_train_step(model, loss, tx, disc_tx), 0.0
  )
  state = jax.jit(
    lambda rng: first_stage_step.init_state(
      model, loss, tx, disc_tx, rng, (spec['side'], spec['side'], 3)
    )
  )(jax.random.key(0))
  args = {}, {'image': jax.numpy.asarray(images(spec))}, jax.random.key(1)
  program = programs.Program(step, (state, *args), donate_argnums=0)
  held = [state]

  def run():
    held[0], _ = program(held[0], *args)
    jax.block_until_ready(held[0])

  return Case({'': run}, program.facts)


def torch(spec, folder) -> Case:
  del folder
  import diffusers
  import torch

  from benchmarks import peers, torch_game

  config = diffusers_release.first_stage(
    section(spec['model']), spec['side'], 1.0
  )
  torch.manual_seed(0)
  model = getattr(diffusers, config['_class_name']).from_config(config)
  x = torch.from_numpy(images(spec)).permute(0, 3, 1, 2).to(peers.DEVICE)
  channels_last = torch.channels_last
  model = model.to(peers.DEVICE, memory_format=channels_last).train()
  disc = torch_game.discriminator(
    WEIGHTS['disc_channels'], WEIGHTS['disc_layers']
  ).to(peers.DEVICE, memory_format=channels_last)
  if config['_class_name'] == 'AutoencoderKL':
    autoencode = torch_game.kl_step(model, KL_WEIGHT)
  else:
    autoencode = torch_game.vq_step(model, CODEBOOK_WEIGHT)
  step = lambda autoencode, disc: torch_game.step_of(
    autoencode, model, disc, x, getattr(torch, spec['dtype']),
    disc_weight=WEIGHTS['disc_weight'], learning_rate=LEARNING_RATE, b1=B1,
  )  # fmt: skip
  forms = {'eager': step(autoencode, disc)}
  if peers.compiles(spec):
    forms['compiled'] = step(torch.compile(autoencode), torch.compile(disc))
  return Case(forms, peers.facts())


def main() -> int:
  rows = [
    harness.compare(
      'first_stage_step',
      {
        'model': model, 'batch': int(batch), 'side': _PIXELS.value,
        'dtype': harness.DTYPE.value,
      },
      ['torch', 'ldm_jax'],
    )
    for model in _MODELS.value
    for batch in _BATCHES.value
  ]  # fmt: skip
  return harness.finish('first_stage_step', rows)


if __name__ == '__main__':
  cli.run(main)
