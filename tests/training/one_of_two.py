"""One of two processes with two devices each; test_parallel.py starts both.

Prints one JSON object of what it saw, for the test to judge.
"""

import functools
import json
import os
import signal
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.panel import Panel
from ldm_jax.pipeline import LatentDiffusionPipeline
from ldm_jax.training import checkpoint, launcher, parallel, processes
from ldm_jax.training.metrics import Writer
from ldm_jax.training.preemption import Preemption
from ldm_jax.types import UserError
from tests import untrained

WIDTH = 256


def make_items():
  return {
    'model': {
      'kernel': np.arange(WIDTH * WIDTH, dtype=np.float32).reshape(WIDTH, -1),
      'bias': np.arange(4, dtype=np.float32),
    }
  }


def abstract(mesh, items):
  return parallel.with_shardings(items, parallel.state_shardings(mesh, items))


def fail():
  raise UserError('told to')


def scored(mesh):
  """How many images a panel scores that has eight."""
  seen = []

  def reconstruct(variables, image):
    seen.append(len(image))
    return image, None

  panel = Panel.__new__(Panel)
  first_stage = types.SimpleNamespace(apply=reconstruct)
  parts = types.SimpleNamespace(on_latents=False, first_stage=first_stage)
  panel.run = types.SimpleNamespace(mesh=mesh, parts=parts)
  panel.batch = {'image': np.linspace(0, 1, 96).reshape(8, 2, 2, 3)}
  panel.count = 7
  panel.draw(types.SimpleNamespace(params={}), {})
  return seen[0]


def main(workdir):
  assert launcher.initialize()
  rank = jax.process_index()
  mesh = parallel.make_mesh(data=2, fsdp=2)
  report = {'processes': jax.process_count(), 'devices': mesh.size}

  # Each process brings its rows; the sum is over all of them.
  rows = np.arange(8, dtype=np.float32)[rank * 4 : rank * 4 + 4]
  batch = parallel.to_global(mesh, {'x': rows})
  weights = 2.0 ** jnp.arange(8.0)
  report['shape'] = list(batch['x'].shape)
  report['dot'] = float(jax.jit(jnp.vdot)(batch['x'], weights))
  report['fetched'] = parallel.fetch(batch['x']).tolist()

  # What one process with eight devices saved; its newest step is damaged.
  items = make_items()
  theirs = checkpoint.Checkpoints(f'{workdir}/theirs')
  wanted = abstract(mesh, items)
  step, found, meta = theirs.restore_latest(wanted)
  theirs.close()
  report['restored'] = [step, meta]
  report['same'] = all(
    np.array_equal(parallel.fetch(a), b)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(items), strict=True)
  )
  report['kernel'] = str(found['model']['kernel'].sharding.spec)

  # What these two save while the state is donated to further steps.
  ours = checkpoint.Checkpoints(f'{workdir}/ours', keep=1)
  advance = functools.partial(jax.jit, donate_argnums=0)(
    lambda tree: jax.tree.map(lambda x: x + 1, tree)
  )
  for step in (1, 2):
    ours.save(step, found, {'step': step})
    found = advance(found)
  report['latest'] = ours.latest()
  loaded, _ = checkpoint.load_items(f'{workdir}/ours', ['model'])
  report['loaded'] = loaded['model']['bias'].tolist()
  ours.close()

  with Writer(f'{workdir}/ours', tensorboard=False) as writer:
    writer.scalars(1, {'rank': rank})

  # What process 0 does alone, for longer than the other waits at a time.
  processes._WAIT_MS = 100
  found = processes.by_first(lambda: time.sleep(0.5) or 7)
  report['first'] = found == (None if rank else 7)
  try:
    processes.by_first(fail)
  except UserError as error:
    report['failed'] = str(error) if rank else f'Process 0: {error}'

  # Eight images that both hold, scored once.
  report['scored'] = scored(mesh)

  # A batch drawn over all devices, as one device alone draws it.
  alone = untrained.unconditional()
  together = LatentDiffusionPipeline(
    alone.parts, jax.device_get(alone.params), 1.0, mesh
  )
  draw = lambda ldm: ldm.sample(num=5, batch_size=4, steps=2, seed=3)
  off = np.abs(draw(together).astype(int) - draw(alone))
  report['drawn'] = [list(off.shape), int(off.max())]

  # One of them is told to stop; both stop at the same step.
  # However often they ask at a step, which the loop does where more is due.
  report['steady'] = True
  with Preemption() as preemption:
    for step in range(2000):
      if rank == 1 and step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
      asked = {preemption.requested(step)}
      time.sleep(0.05)
      asked.add(preemption.requested(step))
      report['steady'] &= len(asked) == 1
      if True in asked:
        report['stopped'] = step
        break
  print(json.dumps(report), flush=True)


if __name__ == '__main__':
  main(sys.argv[1])
