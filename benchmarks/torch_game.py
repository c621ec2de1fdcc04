"""The release's first-stage game in torch, in its cheapest form.

One forward pass of the autoencoder serves both turns; the discriminator sees
real and drawn images in two passes, as its batch normalisation wants.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import peers


def discriminator(channels: int, layers: int) -> nn.Module:
  """PatchGAN (Isola et al. 2017), as the release has it."""
  widths = [channels * min(2**i, 8) for i in range(layers + 1)]
  parts = [nn.Conv2d(3, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
  for i, (ci, co) in enumerate(zip(widths, widths[1:], strict=False)):
    stride = 2 if i < layers - 1 else 1
    parts += [
      nn.Conv2d(ci, co, 4, stride, 1, bias=False),
      nn.BatchNorm2d(co),
      nn.LeakyReLU(0.2),
    ]
  return nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, 1, 1))


def step_of(
  autoencode: Callable,
  model: nn.Module,
  disc: nn.Module,
  x: torch.Tensor,
  dtype: torch.dtype,
  *,
  disc_weight: float,
  learning_rate: float,
  b1: float,
) -> Callable[[], None]:
  """autoencode(x) -> (reconstruction, regulariser); a step of both networks."""
  adam = lambda module: torch.optim.Adam(
    module.parameters(), lr=learning_rate, betas=(b1, 0.999), fused=True
  )
  both = adam(model), adam(disc)
  last = model.decoder.conv_out.weight
  mixed = lambda: torch.autocast(
    peers.DEVICE, dtype, enabled=dtype != torch.float32
  )

  def step():
    for optimizer in both:
      optimizer.zero_grad(set_to_none=True)
    with mixed():
      recon, regular = autoencode(x)
      nll = (x - recon).abs().mean()
      for p in disc.parameters():
        p.requires_grad_(False)
      fake = -disc(recon).mean()
    of = lambda loss: torch.autograd.grad(loss, last, retain_graph=True)[0]
    ratio = of(nll).norm() / (of(fake).norm() + 1e-4)
    weight = disc_weight * ratio.clamp(0, 1e4).detach()
    (nll + weight * fake + regular).backward()
    for p in disc.parameters():
      p.requires_grad_(True)
    with mixed():
      real, drawn = disc(x), disc(recon.detach())
      hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + drawn).mean())
    hinge.backward()
    for optimizer in both:
      optimizer.step()
    peers.wait()

  return step


def kl_step(model, kl_weight: float) -> Callable:
  def autoencode(x):
    posterior = model.encode(x).latent_dist
    recon = model.decode(posterior.sample()).sample
    return recon, kl_weight * posterior.kl().mean()

  return autoencode


def vq_step(model, codebook_weight: float) -> Callable:
  def autoencode(x):
    z = model.encode(x).latents
    quantised, loss, _ = model.quantize(z)
    recon = model.decode(quantised, force_not_quantize=True).sample
    return recon, codebook_weight * loss

  return autoencode
