"""Tests for ldm_jax.nn.backends."""

import types

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.nn import backends
from ldm_jax.types import UserError

CPU = backends.Device('cpu')
TURING, AMPERE, HOPPER, BLACKWELL = (
  backends.Device('gpu', capability)
  for capability in ((7, 5), (8, 6), (9, 0), (10, 0))
)
AMD = backends.Device('gpu')
TPU = backends.Device('tpu')


def about(dtype, queries, keys, width):
  return jnp.dtype(dtype), (2, queries, 8, width), (2, keys, 8, width)


@pytest.mark.parametrize(
  ('device', 'dtype', 'queries', 'keys', 'width', 'expected'),
  [
    (CPU, jnp.bfloat16, 4096, 4096, 64, 'xla'),
    (AMPERE, jnp.bfloat16, 4096, 4096, 64, 'cudnn'),
    (AMPERE, jnp.float16, 1000, 77, 40, 'cudnn'),
    (AMPERE, jnp.float32, 4096, 4096, 64, 'xla'),
    (AMPERE, jnp.bfloat16, 4096, 4096, 12, 'xla'),
    (AMPERE, jnp.bfloat16, 4096, 4096, 160, 'xla'),
    (HOPPER, jnp.bfloat16, 4096, 4096, 160, 'cudnn'),
    (HOPPER, jnp.bfloat16, 4096, 4096, 256, 'cudnn'),
    (HOPPER, jnp.bfloat16, 4096, 4096, 264, 'xla'),
    (BLACKWELL, jnp.bfloat16, 4096, 4096, 128, 'cudnn'),
    # Its cuDNN draws with such heads, and does not train them.
    (BLACKWELL, jnp.bfloat16, 4096, 4096, 160, 'xla'),
    (TURING, jnp.float16, 4096, 4096, 64, 'xla'),
    (AMD, jnp.bfloat16, 4096, 4096, 64, 'xla'),
    (TPU, jnp.bfloat16, 4096, 4096, 64, 'tpu_flash'),
    (TPU, jnp.float32, 4096, 128, 64, 'tpu_flash'),
    (TPU, jnp.float16, 4096, 4096, 64, 'xla'),
    (TPU, jnp.bfloat16, 256, 256, 64, 'xla'),
    (TPU, jnp.bfloat16, 1000, 1000, 64, 'xla'),
    (TPU, jnp.bfloat16, 4096, 77, 64, 'xla'),
    (TPU, jnp.bfloat16, 4096, 4096, 160, 'xla'),
    (TPU, jnp.bfloat16, 4096, 4096, 192, 'xla'),  # configs/layout_coco.py
    (TPU, jnp.bfloat16, 4096, 4096, 512, 'tpu_flash'),
  ],
)
def test_the_backend_by_device(device, dtype, queries, keys, width, expected):
  backend, why = backends.choose(device, *about(dtype, queries, keys, width))
  assert backend == expected and why


def test_what_is_chosen_could_be_asked_for():
  for device in (CPU, TURING, AMPERE, HOPPER, BLACKWELL, AMD, TPU):
    for width in (12, 64, 160, 192, 256):
      given = about(jnp.bfloat16, 1024, 1024, width)
      backends.check(backends.choose(device, *given)[0], device, *given)


@pytest.mark.parametrize(
  ('backend', 'device', 'dtype', 'keys', 'width', 'says'),
  [
    ('cudnn', CPU, jnp.bfloat16, 512, 64, 'for NVIDIA GPUs, and this is a CPU'),
    ('cudnn', AMD, jnp.bfloat16, 512, 64, 'for NVIDIA GPUs'),
    ('cudnn', TURING, jnp.float16, 512, 64, '8.0, and this is a GPU of 7.5'),
    ('cudnn', HOPPER, jnp.float32, 512, 64, 'bfloat16 and float16, not float3'),
    ('cudnn', AMPERE, jnp.bfloat16, 512, 160, 'up to 128 on a GPU of 8.6, not'),
    ('tpu_flash', HOPPER, jnp.bfloat16, 512, 64, 'for TPUs, and this is a GPU'),
    ('tpu_flash', TPU, jnp.float16, 512, 64, 'float32, not float16'),
    ('tpu_flash', TPU, jnp.bfloat16, 77, 64, 'blocks of 128, not 512x77'),
    ('tpu_flash', TPU, jnp.bfloat16, 512, 192, 'multiples of it, not 192'),
  ],
)
def test_a_forced_backend_that_cannot_run_says_why(
  backend, device, dtype, keys, width, says
):
  with pytest.raises(UserError) as error:
    backends.check(backend, device, *about(dtype, 512, keys, width))
  message = str(error.value)
  assert f"attention_backend='{backend}' cannot run here" in message
  assert says in message and "or set 'xla'" in message


@pytest.mark.parametrize(
  ('platform', 'capability', 'expected'),
  [
    ('gpu', '9.0', HOPPER),
    ('gpu', '12.0', backends.Device('gpu', (12, 0))),
    ('gpu', 'gfx90a', AMD),
    ('tpu', None, TPU),
  ],
)
def test_a_device_is_asked_what_it_is(
  monkeypatch, platform, capability, expected
):
  device = types.SimpleNamespace()
  if capability:
    device.compute_capability = capability
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])
  monkeypatch.setattr(jax, 'default_backend', lambda: platform)
  assert backends.here() == expected
