"""Every test sees eight virtual CPU devices, whatever machine it runs on.

`jax.devices()[0]` is what a single-device test uses; a computation that names
no device runs there too, at the speed of a plain CPU backend (the virtual
devices share one pool of threads).
"""

import os
import pathlib

# Read once, when jax is first imported: nothing above this may import it.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    *(
      flag
      for flag in os.environ.get('XLA_FLAGS', '').split()
      if 'host_platform_device_count' not in flag
    ),
    '--xla_force_host_platform_device_count=8',
  ]
)
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Subprocesses of the tests inherit it, so that they compile nothing twice.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path(__file__).parents[1] / '.cache' / 'jax'),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
