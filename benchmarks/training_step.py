"""A training step of the U-Net, latents given: beside diffusers and torch.

  python -m benchmarks.training_step [--unets=ldm4_274m --latents=128]

Both draw t and the noise, take the gradients, and move the parameters by AdamW
and their average; ours also measures the gradient's norm and skips steps that
are not finite, as training does. The state is donated.
"""

import flax.linen as nn
import jax
import numpy as np
from absl import flags

from benchmarks import harness, networks, programs
from benchmarks.sides import Case
from ldm_jax import cli
from ldm_jax.diffusion import schedule as schedules
from ldm_jax.diffusion.loss import LossSpec
from ldm_jax.training import diffusion_step, guard, optim, parallel

_UNETS = flags.DEFINE_list('unets', ['ldm4_small', 'ldm4_274m'], 'Which.')
_BATCHES = flags.DEFINE_list('batches', ['1', '4'], 'Batch sizes.')
_LATENTS = flags.DEFINE_integer(
  'latents', None, "Their side, where it is not the network's own."
)

LEARNING_RATE, DECAY = 1e-4, 0.9999


class Model(nn.Module):
  """A U-Net alone, called as LatentDiffusion is; a context is the batch's."""

  unet: nn.Module

  def __call__(self, z, t, batch, encode, train=False):
    return self.unet(z, t, networks.conditioning(batch), train)


class Given:
  """A codec for which images are latents already."""

  def encode(self, frozen, image, rng=None):
    del frozen, rng
    return image


class Training:
  """Our step, compiled, and the state that it moves."""

  def __init__(self, spec, params):
    tx = optim.make(optim.OptimSpec(learning_rate=LEARNING_RATE), 10**6, 1)
    step = diffusion_step.make_train_step(
      Model(networks.unet(spec)), Given(), schedules.make(), LossSpec(), tx,
      DECAY,
    )  # fmt: skip
    params = {'unet': params}
    self.state = diffusion_step.TrainState(
      jax.numpy.int32(0),
      params,
      jax.tree.map(jax.numpy.copy, params['unet']),
      tx.init(params),
      guard.watch(0.0),
    )
    given = networks.inputs(spec)
    batch = {'image': given['z'], 'context': given.get('context')}
    batch = {k: v for k, v in batch.items() if v is not None}
    mesh = parallel.make_mesh()  # All devices share the batch.
    batch = parallel.to_global(mesh, batch)
    self.state = jax.device_put(self.state, parallel.replicated(mesh))
    self.args = {}, batch, jax.random.key(0)
    self.program = programs.Program(
      guard.guarded(step, 0.0), (self.state, *self.args), donate_argnums=0
    )

  def __call__(self):
    self.state, metrics = self.program(self.state, *self.args)
    jax.block_until_ready(self.state)
    return metrics


def ldm_jax(spec, folder) -> Case:
  training = Training(spec, networks.unet_params(spec, folder))
  facts = {**training.program.facts, **networks.attention(spec)}
  return Case({'': training}, facts)


def diffusers(spec, folder) -> Case:
  import torch

  from benchmarks import peers

  # Parameters stay in float32, as ours do.
  whole = {**spec, 'dtype': 'float32'}
  given = networks.torch_inputs(whole)
  dtype = getattr(torch, spec['dtype'])
  schedule = schedules.make()
  levels = lambda x: torch.from_numpy(np.array(x, np.float32)).to(peers.DEVICE)
  signal, noise = levels(schedule.signal), levels(schedule.noise)
  keywords = {}
  if 'context' in given:
    keywords['encoder_hidden_states'] = given['context']

  def loss(model):
    z = given['z']
    t = torch.randint(len(signal), (len(z),), device=z.device)
    eps = torch.randn_like(z)
    of = lambda table: table[t].view(-1, 1, 1, 1)
    z_t = of(signal) * z + of(noise) * eps
    with torch.autocast(peers.DEVICE, dtype, enabled=dtype != torch.float32):
      eps_hat = model(z_t, t, return_dict=False, **keywords)[0]
    return torch.nn.functional.mse_loss(eps_hat.float(), eps.float())

  model = networks.torch_unet(whole, folder)
  return Case(
    peers.training(spec, model, loss, LEARNING_RATE, DECAY), peers.facts()
  )


def main() -> int:
  side = {'side': _LATENTS.value} if _LATENTS.value else {}
  rows = [
    harness.compare(
      'training_step',
      {'unet': unet, 'batch': int(batch), **side, 'dtype': harness.DTYPE.value},
      ['diffusers', 'ldm_jax'],
    )
    for unet in _UNETS.value
    for batch in _BATCHES.value
  ]
  return harness.finish('training_step', rows)


if __name__ == '__main__':
  cli.run(main)
