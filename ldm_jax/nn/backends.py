"""What may compute attention on a device, and what of it is best.

XLA's own runs everywhere. Beside it an NVIDIA GPU has cuDNN's flash attention,
and a TPU Pallas' flash kernel; what these refuse stands here, so that it is
told before anything is compiled.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp

from ldm_jax.types import UserError

BACKENDS = ('xla', 'cudnn', 'tpu_flash')

# What a platform has beside XLA.
_KERNELS = {'gpu': 'cudnn', 'tpu': 'tpu_flash'}

# The TPU kernel's blocks of queries and of keys. Below _FEW queries XLA's
# table of logits is small, and a kernel saves nothing.
_BLOCK, _FEW = 128, 512


@dataclasses.dataclass(frozen=True)
class Device:
  """Where attention is to run.

  Attributes:
    platform: as JAX calls it: 'cpu', 'gpu' or 'tpu'.
    capability: an NVIDIA GPU's compute capability, such as (9, 0); else None.
  """

  platform: str
  capability: tuple[int, int] | None = None

  @property
  def has_choice(self) -> bool:
    return self.platform in _KERNELS


def here() -> Device:
  """The device that programs run on."""
  # Of an AMD GPU it is a name, such as gfx90a.
  text = str(getattr(jax.local_devices()[0], 'compute_capability', ''))
  found = re.fullmatch(r'(\d+)\.(\d+)', text)
  capability = (int(found[1]), int(found[2])) if found else None
  return Device(jax.default_backend(), capability)


def choose(device: Device, dtype, q_shape, k_shape) -> tuple[str, str]:
  """The backend for q [B N H D] and k [B L H D], and the reason in words."""
  if not device.has_choice:
    return 'xla', f'the only one on {device.platform}'
  kernel = _KERNELS[device.platform]
  if why := refusal(kernel, device, dtype, q_shape, k_shape):
    return 'xla', why
  queries, keys, width = q_shape[1], k_shape[1], q_shape[3]
  if kernel == 'tpu_flash' and queries < _FEW:
    return 'xla', f'{queries} queries are few'
  return kernel, f'{queries}x{keys}, {dtype}, head width {width}'


def check(backend: str, device: Device, dtype, q_shape, k_shape) -> None:
  """Raises UserError where a backend that was asked for cannot run."""
  check_name(backend)
  if why := refusal(backend, device, dtype, q_shape, k_shape):
    raise UserError(
      f"attention_backend='{backend}' cannot run here: {why}. Leave it unset "
      "to choose by device and shape, or set 'xla', which runs everywhere."
    )


def check_name(backend: str) -> None:
  """Raises UserError for a backend that is none."""
  if backend not in BACKENDS:
    raise UserError(
      f'attention_backend={backend!r} is unknown; allowed: '
      f'{", ".join(BACKENDS)}, or unset to choose by device.'
    )


def refusal(backend: str, device: Device, dtype, q_shape, k_shape) -> str:
  """Why a backend cannot run this; '' where it can."""
  if backend == 'cudnn':
    return _cudnn_refusal(device, dtype, q_shape[3])
  if backend == 'tpu_flash':
    return _tpu_refusal(device, dtype, q_shape, k_shape)
  return ''


def _cudnn_refusal(device, dtype, width) -> str:
  """After NVIDIA's table of what cuDNN 9 trains, which is less than it draws.

  Heads wider than 128 have gradients on Hopper (9.x) alone.
  """
  name = 'cuDNN flash attention'
  if device.platform != 'gpu' or device.capability is None:
    return f'{name} is for NVIDIA GPUs, and this is {_words(device)}'
  if device.capability < (8, 0):
    return f'{name} needs compute capability 8.0, and this is {_words(device)}'
  if dtype not in (jnp.bfloat16, jnp.float16):
    return f'{name} takes bfloat16 and float16, not {dtype}'
  widest = 256 if device.capability[0] == 9 else 128
  if width % 8 or width > widest:
    return (
      f'{name} takes head widths of multiples of 8 up to {widest} on '
      f'{_words(device)}, not {width}'
    )
  return ''


def _tpu_refusal(device, dtype, q_shape, k_shape) -> str:
  """After the checks in jax.experimental.pallas.ops.tpu.flash_attention."""
  queries, keys, width = q_shape[1], k_shape[1], q_shape[3]
  if device.platform != 'tpu':
    return f"Pallas' flash kernel is for TPUs, and this is {_words(device)}"
  if dtype not in (jnp.bfloat16, jnp.float32):
    return f'the flash kernel takes bfloat16 and float32, not {dtype}'
  if queries % _BLOCK or keys % _BLOCK:
    return (
      f'the flash kernel takes queries and keys in blocks of {_BLOCK}, not '
      f'{queries}x{keys}'
    )
  if width > _BLOCK and width % _BLOCK:
    return (
      f'the flash kernel takes head widths up to {_BLOCK} and multiples of it, '
      f'not {width}'
    )
  return ''


def _words(device: Device) -> str:
  if device.platform == 'gpu' and device.capability:
    return 'a GPU of {}.{}'.format(*device.capability)
  return f'a {device.platform.upper()}'
