"""Diffusion as mathematics. To add a solver: write its file, add its line."""

from ldm_jax.diffusion import ddim, dpm_solver, heun, plms, unipc

# Name -> (levels, eta) -> Steps.
SOLVERS = {
  'ddim': ddim.ddim,
  'ddpm': ddim.ddpm,
  'plms': plms.plms,
  'dpmpp_2m': dpm_solver.dpmpp_2m,
  'dpmpp_2m_sde': dpm_solver.dpmpp_2m_sde,
  'unipc': unipc.unipc,
  'euler': ddim.euler,
  'euler_ancestral': ddim.euler_ancestral,
  'heun': heun.heun,
}

# Solvers whose steps are best even in log SNR (docs/sampling.md has figures);
# the others take 'leading' unless told.
OWN_SPACING = dict.fromkeys(('dpmpp_2m', 'dpmpp_2m_sde', 'unipc'), 'log_snr')
