"""Tests for ldm_jax.nn.attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding, PartitionSpec

from ldm_jax.nn import attention, backends
from ldm_jax.training import parallel
from ldm_jax.types import UserError


def qkv(queries=7, keys=5, heads=3, width=8, dtype=jnp.float32, batch=2):
  rngs = jax.random.split(jax.random.key(0), 3)
  shape = lambda n: (batch, n, heads, width)
  draw = lambda rng, n: jax.random.normal(rng, shape(n), dtype)
  return draw(rngs[0], queries), draw(rngs[1], keys), draw(rngs[2], keys)


@pytest.mark.parametrize('causal', [False, True])
def test_xla_is_jax_s_own(causal):
  q, k, v = qkv(keys=7)
  expected = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
  for backend in (None, 'xla'):
    y = attention.attend(q, k, v, backend, causal)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_half_precision_stays_in_range_and_softmax_is_float32():
  q, k, v = qkv(keys=64, width=64, dtype=jnp.float16)
  # The plain product would reach 64 * 40 * 40 > 65504.
  y = attention.attend(40 * jnp.ones_like(q), 40 * jnp.ones_like(k), v, 'xla')
  assert y.dtype == jnp.float16
  even = v.astype(jnp.float32).mean(1, keepdims=True)
  np.testing.assert_allclose(y, jnp.broadcast_to(even, y.shape), atol=2e-3)


def test_keys_have_no_order():
  q, k, v = qkv()
  order = jnp.array([3, 1, 4, 0, 2])
  np.testing.assert_allclose(
    attention.attend(q, k[:, order], v[:, order]),
    attention.attend(q, k, v),
    atol=1e-6,
  )


def test_heads_do_not_mix():
  q, k, v = qkv()
  y = attention.attend(q, k, v)
  for i in range(3):
    one = slice(i, i + 1)
    alone = attention.attend(q[:, :, one], k[:, :, one], v[:, :, one])
    np.testing.assert_allclose(y[:, :, one], alone, atol=1e-6)


def test_an_unknown_backend_is_named():
  with pytest.raises(UserError, match="attention_backend='flash'.*cudnn"):
    attention.attend(*qkv(), backend='flash')


def test_heads_split_and_merge():
  x = jax.random.normal(jax.random.key(0), (2, 5, 12))
  split = attention.split_heads(x, 3)
  np.testing.assert_array_equal(split[:, :, 1], x[:, :, 4:8])
  np.testing.assert_array_equal(attention.merge_heads(split), x)


def test_multi_head_attention_has_the_release_s_biases():
  x = jnp.ones((1, 4, 12))
  shapes = lambda **kw: jax.tree.map(
    jnp.shape,
    attention.MultiHeadAttention(2, 8, **kw).init(
      jax.random.key(0), x, jnp.ones((1, 3, 5))
    )['params'],
  )
  released = {
    'q': {'kernel': (12, 16)},
    'k': {'kernel': (5, 16)},
    'v': {'kernel': (5, 16)},
    'out': {'kernel': (16, 12), 'bias': (12,)},
  }
  assert shapes() == released
  assert shapes(qkv_bias=True)['k'] == {'kernel': (5, 16), 'bias': (16,)}


def block_and_params(num_heads):
  block = attention.AttentionBlock(num_heads, norm_groups=4)
  x = jax.random.normal(jax.random.key(0), (2, 4, 3, 12))
  params = block.init(jax.random.key(1), x)['params']
  return block, params, x


def test_a_fresh_attention_block_changes_nothing():
  block, params, x = block_and_params(3)
  np.testing.assert_array_equal(block.apply({'params': params}, x), x)


def test_the_fused_projection_goes_by_head_and_then_by_q_k_v():
  """Moving whole heads, with their rows of proj_out, changes nothing."""
  block, params, x = block_and_params(3)
  rng = np.random.default_rng(0)
  draw = lambda x: rng.normal(size=x.shape).astype(np.float32)
  params = jax.tree.map(draw, params)
  y = block.apply({'params': params}, x)
  order = [2, 0, 1]
  move = lambda x, axis, parts: np.concatenate(
    [np.split(x, parts, axis)[i] for i in order], axis
  )
  moved = {
    'norm': params['norm'],
    'qkv': {k: move(v, -1, 3) for k, v in params['qkv'].items()},
    'proj_out': {
      'kernel': move(params['proj_out']['kernel'], 0, 3),
      'bias': params['proj_out']['bias'],
    },
  }
  np.testing.assert_allclose(
    block.apply({'params': moved}, x), y, rtol=1e-4, atol=1e-4
  )
  # Inside a head: without q or k all positions get the same mean; without v
  # they get the bias alone.
  for part in range(3):
    less = jax.tree.map(np.copy, params)
    for leaf in less['qkv'].values():
      leaf.reshape(*leaf.shape[:-1], 3, 3, 4)[..., part, :] = 0
    added = np.asarray(block.apply({'params': less}, x) - x)
    assert np.ptp(added, axis=(1, 2)).max() < 1e-5
    nothing = np.abs(added - params['proj_out']['bias']).max() < 1e-5
    assert nothing == (part == 2)


def test_positions_have_no_order():
  block, params, x = block_and_params(2)
  params['proj_out']['kernel'] = jax.random.normal(jax.random.key(2), (12, 12))
  y = block.apply({'params': params}, x)
  np.testing.assert_allclose(
    block.apply({'params': params}, x[:, ::-1]), y[:, ::-1], atol=1e-5
  )


def test_a_large_table_is_walked_in_parts(monkeypatch):
  q, k, v = (
    jax.random.normal(jax.random.key(i), (2, n, 2, 8))
    for i, n in enumerate((12, 10, 10))
  )
  whole = attention.attend(q, k, v, 'xla')
  monkeypatch.setattr(attention, '_TABLE_ELEMENTS', 2 * 2 * 4 * 10)
  assert attention._query_parts(q.shape, k.shape) == 4
  np.testing.assert_allclose(attention.attend(q, k, v, 'xla'), whole, atol=1e-6)


@pytest.mark.parametrize('causal', [False, True])
def test_heads_one_by_one_change_nothing(monkeypatch, causal):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  q, k, v = qkv(keys=7)
  loss = lambda q, k, v: jnp.sum(
    jnp.sin(attention.attend(q, k, v, 'xla', causal))
  )
  whole = jax.value_and_grad(loss, (0, 1, 2))(q, k, v)
  monkeypatch.setattr(attention, '_HEAD_ELEMENTS', 7 * 7)
  assert 'scan' in str(jax.make_jaxpr(loss)(q, k, v))
  walked = jax.value_and_grad(loss, (0, 1, 2))(q, k, v)
  for a, b in zip(*map(jax.tree.leaves, (walked, whole)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_of_a_divided_batch_each_device_walks_its_own_heads(monkeypatch):
  monkeypatch.setattr(attention, '_HEAD_ELEMENTS', 7 * 5)
  q, k, v = qkv(batch=8)
  loss = lambda q, k, v: jnp.sum(jnp.sin(attention.attend(q, k, v)))
  program = jax.jit(jax.grad(loss, (0, 1, 2)))
  expected = program(q, k, v)
  mesh = parallel.make_mesh(data=4, fsdp=2)
  split = NamedSharding(mesh, PartitionSpec(parallel.AXES))
  compiled = program.lower(*jax.device_put((q, k, v), split)).compile()
  text = compiled.as_text()
  assert 'f32[3,1,7,8]' in text  # One image's heads, to be walked.
  assert 'all-' not in text and 'collective' not in text
  found = compiled(*jax.device_put((q, k, v), split))
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_only_large_heads_on_a_cpu_are_walked(monkeypatch):
  by_heads = lambda n, heads: attention._by_heads(*2 * ((1, n, heads, 32),))
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  assert by_heads(1024, 14)
  assert by_heads(1024, 1)
  assert not by_heads(256, 14)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert not by_heads(1024, 14)


@pytest.mark.parametrize('backend', [None, *backends.BACKENDS])
def test_over_one_key_all_queries_get_its_value(backend):
  q, k, v = qkv(keys=1)
  attend = lambda q, k, v: attention.attend(q, k, v, backend)
  np.testing.assert_array_equal(attend(q, k, v), np.repeat(v, 7, axis=1))
  weights = jax.random.normal(jax.random.key(1), q.shape)
  loss = lambda attend: lambda *given: jnp.sum(weights * attend(*given))
  dq, dk, dv = jax.grad(loss(attend), (0, 1, 2))(q, k, v)
  assert not dq.any() and not dk.any()
  whole = lambda q, k, v: attention._attend_whole(q, k, v, False)
  expected = jax.grad(loss(whole), 2)(q, k, v)
  np.testing.assert_allclose(dv, expected, atol=1e-5)


@pytest.mark.parametrize('backend', ['cudnn', 'tpu_flash'])
def test_a_backend_that_is_not_for_this_device_is_a_mistake(backend):
  says = f"='{backend}' cannot run here: .* this is a CPU"
  with pytest.raises(UserError, match=says):
    attention.attend(*qkv(), backend=backend)


def test_a_choice_is_told_once_and_only_where_there_is_one(monkeypatch, caplog):
  attention._log_once.cache_clear()
  caplog.set_level('INFO')
  attention.attend(*qkv())
  assert not caplog.records
  as_on_tpu(monkeypatch)
  for _ in range(2):
    attention.attend(*qkv())
  (record,) = caplog.records
  assert 'Attention runs on xla: the flash kernel' in record.getMessage()


# A TPU's programs, as far as they can be made without one. JAX refuses to lower
# a kernel that the compiler would have to divide among devices.


def as_on_tpu(monkeypatch):
  monkeypatch.setattr(backends, 'here', lambda: backends.Device('tpu'))


def for_tpu(function, *args) -> str:
  traced = jax.jit(function).trace(*args)
  return traced.lower(lowering_platforms=('tpu',)).as_text()


def on_mesh(batch, spec):
  """Abstract q, k and v on 4 x 2 devices."""
  split = NamedSharding(parallel.make_mesh(data=4, fsdp=2), spec)
  shape = batch, 256, 3, 64
  return [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=split)] * 3


def squared(q, k, v):
  y = attention.attend(q, k, v, 'tpu_flash')
  return jnp.sum(jnp.square(y.astype(jnp.float32)))


@pytest.mark.parametrize(
  ('batch', 'spec', 'each'),
  [
    (16, PartitionSpec(parallel.AXES), 2),
    (12, PartitionSpec('data'), 3),  # Four devices divide it, eight do not.
    (3, PartitionSpec(), 3),
    (8, PartitionSpec(), 1),
  ],
)
def test_the_tpu_kernel_gets_each_device_s_images(
  monkeypatch, batch, spec, each
):
  as_on_tpu(monkeypatch)
  qkv = on_mesh(batch, spec)
  for function, kernels in ((squared, 1), (jax.grad(squared, (0, 1, 2)), 3)):
    calls = [
      line
      for line in for_tpu(function, *qkv).splitlines()
      if '@tpu_custom_call(' in line
    ]
    assert len(calls) == kernels
    assert all(f'tensor<{each}x3x256x64xbf16>' in line for line in calls)


@pytest.mark.parametrize('width', [8, 40, 128, 256])
def test_the_tpu_kernel_takes_these_widths_on_one_device(monkeypatch, width):
  as_on_tpu(monkeypatch)
  x = jax.ShapeDtypeStruct((2, 256, 3, width), jnp.bfloat16)
  assert 'tpu_custom_call' in for_tpu(jax.grad(squared, (0, 1, 2)), x, x, x)


def test_the_tpu_kernel_is_divided_over_a_mesh_that_is_set(monkeypatch):
  as_on_tpu(monkeypatch)
  x = jax.ShapeDtypeStruct((16, 256, 3, 64), jnp.bfloat16)
  with jax.set_mesh(parallel.make_mesh(data=4, fsdp=2)):
    assert 'tensor<2x3x256x64xbf16>' in for_tpu(squared, x, x, x)


def test_the_tpu_kernel_is_divided_in_loops_and_when_made_again(monkeypatch):
  as_on_tpu(monkeypatch)

  def looped(q, k, v):
    one = jax.checkpoint(lambda x: attention.attend(x, k, v, 'tpu_flash'))
    more = lambda x, _: (one(x), None)
    x, _ = jax.lax.scan(more, q, None, length=2)
    halves = jnp.stack(jnp.split(x, 2))
    halves = jax.lax.map(lambda half: squared(half, half, half), halves)
    return jnp.sum(halves)

  given = on_mesh(16, PartitionSpec(parallel.AXES))
  assert 'tpu_custom_call' in for_tpu(jax.grad(looped), *given)


@pytest.mark.parametrize('batch', [8, 4, 3])
def test_divided_among_devices_it_gives_what_xla_gives(monkeypatch, batch):
  """Pallas' kernel as JAX interprets it on a CPU, forward and backward."""
  as_on_tpu(monkeypatch)
  mesh = parallel.make_mesh(data=2, fsdp=2, devices=jax.devices()[:4])
  spec = PartitionSpec(parallel.AXES if batch == 8 else None)
  split = NamedSharding(mesh, spec)
  draw = lambda i: jax.random.normal(jax.random.key(i), (batch, 128, 1, 8))
  given = [jax.device_put(draw(i), split) for i in range(3)]

  def run(backend):
    def loss(q, k, v):
      y = attention.attend(q, k, v, backend)
      return jnp.sum(jnp.sin(y)), y

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*given)

  expected = run('xla')
  with pltpu.force_tpu_interpret_mode():
    found = run('tpu_flash')
  same = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4)
  jax.tree.map(same, found, expected)
