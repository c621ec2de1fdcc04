"""Diffusion as mathematics. To add a solver: write its file, add its line."""

from ldm_jax.diffusion import ddim, plms

# Name -> (levels, eta) -> Steps.
SOLVERS = {'ddim': ddim.ddim, 'plms': plms.plms}
