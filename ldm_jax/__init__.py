"""Latent diffusion (Rombach et al. 2022) in JAX."""

__version__ = '0.1.0'
__all__ = ['load']


def __getattr__(name: str):
  # Lazily, so that data workers, which import ldm_jax.data, stay light.
  if name == 'load':
    from ldm_jax.pipeline import load

    return load
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
