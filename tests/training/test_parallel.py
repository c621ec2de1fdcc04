"""Tests for ldm_jax.training.parallel."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ldm_jax.training import checkpoint, optim, parallel
from ldm_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[2]


def shape(*sizes, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(sizes, dtype)


# The mesh.


@pytest.mark.parametrize(
  'data, fsdp, expected',
  [(-1, 1, (8, 1)), (-1, 4, (2, 4)), (4, 2, (4, 2)), (1, 1, (1, 1))],
)
def test_meshes(data, fsdp, expected):
  mesh = parallel.make_mesh(data, fsdp)
  assert mesh.devices.shape == expected
  assert mesh.axis_names == ('data', 'fsdp')


@pytest.mark.parametrize(
  'data, fsdp, message',
  [
    (-1, 3, r'fsdp=3 does not divide the 8.*\[1, 2, 4, 8\]'),
    (16, 1, 'needs 16 devices, and 8'),
    (0, 1, 'at least 1'),
    (-1, 0, 'at least 1'),
  ],
)
def test_impossible_meshes_say_why(data, fsdp, message):
  with pytest.raises(UserError, match=message):
    parallel.make_mesh(data, fsdp)


def test_a_convolution_runs_with_a_sharded_kernel():
  """It would not with JAX's default, Explicit axes."""
  mesh = parallel.make_mesh(2, 4)
  kernel = np.random.default_rng(0).normal(size=(3, 3, 32, 256))
  image = np.random.default_rng(1).normal(size=(8, 4, 4, 32))

  def convolve(image, kernel):
    return jax.lax.conv_general_dilated(
      image, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  image, kernel = jnp.float32(image), jnp.float32(kernel)
  sharding = parallel.state_shardings(mesh, kernel)
  assert not sharding.is_fully_replicated
  sharded = jax.jit(convolve)(
    jax.device_put(image, parallel.batch_sharding(mesh)),
    jax.device_put(kernel, sharding),
  )
  np.testing.assert_allclose(
    np.asarray(sharded), np.asarray(convolve(image, kernel)), atol=1e-4
  )


# The rule of what is sharded.


@pytest.mark.parametrize(
  'leaf, spec',
  [
    (shape(255, 256), ()),  # Just too small.
    (shape(256, 256), (None, 'fsdp')),  # The last of the largest.
    (shape(512, 128), ('fsdp', None)),
    (shape(3, 3, 510, 128), (None, None, None, 'fsdp')),  # 510 = 4 * 127.5.
    (shape(257, 511), ()),  # Nothing that 4 divides.
    (shape(), ()),
    (shape(2**16, dtype=jnp.bfloat16), ('fsdp',)),
  ],
)
def test_the_largest_dimension_that_divides_is_sharded(leaf, spec):
  mesh = parallel.make_mesh(2, 4)
  assert parallel.state_shardings(mesh, leaf).spec == PartitionSpec(*spec)


def test_without_fsdp_all_is_replicated():
  mesh = parallel.make_mesh()
  assert parallel.state_shardings(mesh, shape(512, 512)).is_fully_replicated


def test_moments_are_sharded_as_their_parameters():
  params = {'a': shape(256, 512), 'b': shape(512)}
  tx = optim.make(optim.OptimSpec(1e-3), 10, 8)
  mesh = parallel.make_mesh(2, 4)
  state = parallel.state_shardings(
    mesh, {'params': params, 'opt': jax.eval_shape(tx.init, params)}
  )
  specs = {
    sharding.spec
    for path, sharding in jax.tree_util.tree_leaves_with_path(state)
    if jax.tree_util.keystr(path, simple=True, separator='/').endswith('/a')
  }
  assert specs == {PartitionSpec(None, 'fsdp')}


def test_the_description_counts_bytes_per_device():
  tree = {'big': shape(256, 256), 'small': shape(1024)}
  mesh = parallel.make_mesh(2, 4)
  text = parallel.describe_shardings(tree, parallel.state_shardings(mesh, tree))
  total, local = 256 * 256 * 4 + 4096, 256 * 256 + 4096
  assert '1 of 2 arrays sharded' in text
  assert f'{total / 2**20:.1f} MiB in all' in text
  assert f'{local / 2**20:.1f} MiB per device' in text
  assert 'big (256, 256)' in text and 'small' not in text


# Placing.


def test_batches_are_split_over_all_devices_in_order():
  mesh = parallel.make_mesh(2, 4)
  x = np.arange(16.0, dtype=np.float32).reshape(16, 1)
  batch = parallel.to_global(mesh, {'x': x, 'label': np.arange(16)})
  np.testing.assert_array_equal(parallel.fetch(batch['x']), x)
  for i, device in enumerate(mesh.devices.ravel()):
    (mine,) = [s for s in batch['x'].addressable_shards if s.device == device]
    np.testing.assert_array_equal(mine.data, x[2 * i : 2 * i + 2])


def test_a_batch_that_every_process_holds_is_split_alike():
  mesh = parallel.make_mesh(2, 4)
  whole = {'x': np.arange(16.0).reshape(16, 1), 'label': list(range(16))}
  for key, x in parallel.split(mesh, whole).items():
    np.testing.assert_array_equal(parallel.fetch(x), whole[key])
    alike = parallel.to_global(mesh, {key: whole[key]})[key]
    assert x.sharding == alike.sharding and x.dtype == alike.dtype


def test_replicated_values_are_whole_everywhere():
  mesh = parallel.make_mesh(4, 2)
  tree = parallel.replicate(mesh, {'a': np.arange(3), 'b': jnp.float32(2)})
  for leaf in jax.tree.leaves(tree):
    assert len(leaf.devices()) == 8 and leaf.is_fully_replicated


@pytest.mark.parametrize('batch_size, grad_accum', [(8, 1), (64, 4), (16, 2)])
def test_batches_that_fit(batch_size, grad_accum):
  parallel.check_batch(batch_size, parallel.make_mesh(4, 2), grad_accum)


@pytest.mark.parametrize(
  'batch_size, grad_accum, message',
  [
    (12, 1, r'12 cannot be split over 8 devices.*8 or 16.*\[1, 2, 3, 4, 6, 12'),
    (24, 2, 'multiple of 16. Use 16 or 32'),
    (4, 1, 'multiple of 8. Use 8'),
    (0, 1, 'multiple of 8. Use 8'),
    (8, 0, 'grad_accum=0'),
  ],
)
def test_batches_that_do_not_fit_name_those_that_do(
  batch_size, grad_accum, message
):
  with pytest.raises(UserError, match=message):
    parallel.check_batch(batch_size, parallel.make_mesh(), grad_accum)


# Two processes.


def test_two_processes_train_save_restore_and_stop_as_one(tmp_path):
  from tests.training import one_of_two

  items = one_of_two.make_items()
  mesh = parallel.make_mesh(2, 4)
  shardings = parallel.state_shardings(mesh, items)
  with_eight = checkpoint.Checkpoints(tmp_path / 'theirs')
  with_eight.save(1, jax.device_put(items, shardings), {'by': 'one'})
  with_eight.save(2, jax.device_put(items, shardings), {'by': 'one'})
  with_eight.close()
  (tmp_path / 'theirs' / 'checkpoints' / '2' / 'manifest.json').unlink()

  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  env = {
    **os.environ,
    'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
    'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
    'JAX_NUM_PROCESSES': '2',
    'PYTHONPATH': str(ROOT),
  }
  processes = [
    subprocess.Popen(
      [sys.executable, one_of_two.__file__, str(tmp_path)],
      env={**env, 'JAX_PROCESS_ID': str(rank)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for rank in (0, 1)
  ]
  reports = []
  try:
    for process in processes:
      out, err = process.communicate(timeout=120)
      assert process.returncode == 0, err[-4000:]
      reports.append(json.loads(out.splitlines()[-1]))
  finally:
    for process in processes:
      process.kill()

  assert reports[0] == reports[1]
  report = reports[0]
  assert (report['processes'], report['devices']) == (2, 4)
  assert report['shape'] == [8]
  assert report['dot'] == sum(i * 2**i for i in range(8))
  assert report['fetched'] == list(range(8))
  assert report['restored'] == [1, {'by': 'one'}]  # 2 is damaged.
  assert (tmp_path / 'theirs' / 'checkpoints' / '2.damaged').exists()
  assert report['same'] and "'fsdp'" in report['kernel']
  assert report['latest'] == 2
  assert report['loaded'] == [1, 2, 3, 4]
  assert report['first'] and report['failed'] == 'Process 0: told to'
  assert report['scored'] == 8  # Not 8 of each.
  (count, *_), off = report['drawn']
  assert count == 5 and off <= 1
  assert report['stopped'] >= 3 and report['steady']
  lines = (tmp_path / 'ours' / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in lines] == [{'step': 1, 'rank': 0}]

  # And one process reads what two saved.
  wanted = parallel.with_shardings(items, shardings)
  ours = checkpoint.Checkpoints(tmp_path / 'ours')
  step, found, meta = ours.restore_latest(wanted)
  assert step == 2 and meta == {'step': 2} and ours.steps() == [2]
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(np.asarray(a), b + 1),
    found,
    items,
  )
