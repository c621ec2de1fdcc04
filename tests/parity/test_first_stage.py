"""First stages against diffusers and against formulas written in torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.first_stage import autoencoder, losses, lpips
from ldm_jax.first_stage.autoencoder import AutoencoderKL, AutoencoderVQ
from ldm_jax.first_stage.losses import LossSpec
from ldm_jax.training import first_stage_step

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

from tests.parity import first_stage_oracle as oracle  # noqa: E402
from tests.parity.first_stage_oracle import (  # noqa: E402
  SHAPES,
  assert_gradients_near,
  assert_near,
  images,
)
from tests.parity.oracles import nchw, nhwc  # noqa: E402


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('kind', [AutoencoderKL, AutoencoderVQ])
def test_encoder_and_decoder_are_diffusers(kind, shape):
  ours, variables, theirs = oracle.pair(kind, shape)
  x = images(1, side=32)

  @jax.jit
  def run(variables, x, z):
    call = lambda method, x: ours.apply(variables, x, method=method)
    return call('moments', x), call('encode', x), call('decode', z)

  with torch.no_grad():
    if kind is AutoencoderKL:
      posterior = theirs.encode(nchw(x)).latent_dist
      expected = nhwc(posterior.mean), nhwc(posterior.logvar)
    else:
      expected = nhwc(theirs.encode(nchw(x)).latents), None
    z = 2 * np.random.default_rng(3).standard_normal(expected[0].shape)
    z = z.astype(np.float32)
    decoded = nhwc(theirs.decode(nchw(z)).sample)
  moments, latent, image = run(variables, x, z)
  assert_near(latent, expected[0], 1e-4, 'latent')
  assert_near(moments[0], expected[0], 1e-4, 'mean')
  if kind is AutoencoderKL:
    assert_near(moments[1], expected[1], 1e-4, 'logvar')
  assert_near(image, decoded, 1e-4, 'image')


@pytest.mark.parametrize('kind', [AutoencoderKL, AutoencoderVQ])
def test_gradients_are_diffusers(kind):
  """Of a reconstruction and the latents' term, through sampling or codes."""
  ours, variables, theirs = oracle.pair(kind, 'f8-attn')
  x, weights = images(1, side=32), images(2, side=32)
  rng = jax.random.key(5)

  def loss(params):
    recon, aux = ours.apply({'params': params}, x, rng)
    if kind is AutoencoderKL:
      regular = losses.kl_divergence(aux['mean'], aux['logvar'])
    else:
      regular = losses.codebook_loss(aux['z'], aux['quantized'])
    return jnp.sum(weights * recon) + regular, recon

  (_, recon), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    variables['params']
  )

  theirs.zero_grad()
  if kind is AutoencoderKL:
    posterior = theirs.encode(nchw(x)).latent_dist
    shape = nhwc(posterior.mean).shape
    noise = nchw(jax.random.normal(rng, shape))
    z = posterior.mean + posterior.std * noise
    expected = theirs.decode(z).sample
    regular = posterior.kl().mean()
  else:
    z = theirs.encode(nchw(x)).latents
    expected = theirs.decode(z).sample
    codes = theirs.quantize.embedding.weight
    nearest = torch.cdist(z.permute(0, 2, 3, 1).reshape(-1, 4), codes)
    q = codes[nearest.argmin(1)].reshape(*z.permute(0, 2, 3, 1).shape)
    q = q.permute(0, 3, 1, 2)
    regular = ((q.detach() - z) ** 2).mean()
    regular = regular + 0.25 * ((q - z.detach()) ** 2).mean()
  assert_near(recon, nhwc(expected), 1e-4, 'reconstruction')
  ((nchw(weights) * expected).sum() + regular).backward()

  assert_gradients_near(oracle.state_dict(grads, len(ours.multipliers)), theirs)


@pytest.mark.parametrize('num_layers', [2, 3])
def test_discriminator_is_torch(num_layers):
  ours, variables, theirs = oracle.discriminator_pair(num_layers)
  x = images(1, batch=4, side=32)
  theirs.eval()
  remembered = jax.jit(functools.partial(ours.apply, train=False))
  assert_near(remembered(variables, x), nhwc(theirs(nchw(x))), 1e-4, 'eval')

  @jax.jit
  def learn(params, x):
    def loss(params, x):
      variables_ = {**variables, 'params': params}
      logits, new = ours.apply(variables_, x, mutable=['batch_stats'])
      return jnp.sum(jnp.square(logits)), (logits, new['batch_stats'])

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

  (_, (logits, stats)), grads = learn(variables['params'], x)
  theirs.train()
  inputs = nchw(x).requires_grad_()
  expected = theirs(inputs)
  assert_near(logits, nhwc(expected), 1e-4, 'train')
  (expected**2).sum().backward()
  assert_near(grads[1], nhwc(inputs.grad), 1e-3, 'to the image')
  convs = [m for m in theirs if isinstance(m, torch.nn.Conv2d)]
  norms = [m for m in theirs if isinstance(m, torch.nn.BatchNorm2d)]
  for i, conv in enumerate(convs):
    got = grads[0][f'conv_{i}']['kernel'].transpose(3, 2, 0, 1)
    assert_near(got, conv.weight.grad, 1e-3, f'conv_{i}')
  for i, norm in enumerate(norms, start=1):
    got = grads[0][f'norm_{i}']
    assert_near(got['scale'], norm.weight.grad, 1e-3, f'norm_{i}')
    assert_near(got['bias'], norm.bias.grad, 1e-3, f'norm_{i}')
    assert_near(stats[f'norm_{i}']['mean'], norm.running_mean, 1e-4)
    assert_near(stats[f'norm_{i}']['var'], norm.running_var, 1e-4)


def test_lpips_is_torch():
  arrays = oracle.lpips_files()
  params = lpips.params_from_arrays(arrays)
  x, y = images(1, 3, 32), images(2, 3, 32)

  def total(y, params, x):
    distance = lpips.LPIPS().apply({'params': params}, x, y)
    return distance.sum(), distance

  run = jax.jit(jax.value_and_grad(total, has_aux=True))
  (_, got), grad = run(y, params, x)
  theirs = nchw(y).requires_grad_()
  expected = oracle.torch_lpips(arrays, nchw(x), theirs)
  np.testing.assert_allclose(got, expected.detach(), rtol=1e-4)
  expected.sum().backward()
  assert_near(grad, nhwc(theirs.grad), 1e-3)


@pytest.mark.parametrize(
  'kind, pixel, disc_loss',
  [
    (AutoencoderKL, 'l1', 'hinge'),
    (AutoencoderVQ, 'l2', 'vanilla'),
  ],
)
def test_a_whole_step_is_torch(kind, pixel, disc_loss):
  """Every term and both networks' gradients, LPIPS and game included."""
  ours, variables, theirs = oracle.pair(kind, 'f4-noattn')
  _, disc_variables, judge = oracle.discriminator_pair(2)
  judge = oracle.torch_discriminator(disc_variables, 2)  # Its statistics move.
  arrays = oracle.lpips_files()
  spec = LossSpec(
    pixel=pixel,
    kl_weight=0.01,
    logvar_init=0.3,
    disc_start=0,
    disc_loss=disc_loss,
    disc_layers=2,
    disc_channels=8,
  )
  x, rng, b1 = images(1, 2, 32), jax.random.key(9), 0.5
  tx = optax.adam(1e-3, b1, 0.9)
  state = first_stage_step.FirstStageState(
    step=jnp.int32(0),
    params=variables['params'],
    logvar=jnp.float32(spec.logvar_init),
    opt_state=tx.init({'model': variables['params']}),
    disc_params=disc_variables['params'],
    disc_stats=disc_variables['batch_stats'],
    disc_opt_state=tx.init(disc_variables['params']),
  )
  step = jax.jit(first_stage_step.make_train_step(ours, spec, tx, tx))
  frozen = {'lpips': lpips.params_from_arrays(arrays)}
  after, metrics = step(state, frozen, {'image': x}, rng)

  noise_rng, _ = jax.random.split(jax.random.fold_in(rng, 0))
  zeros = jnp.zeros((2, 8, 8, 4))
  noise = autoencoder.sample(zeros, zeros, jax.random.split(noise_rng, 2))
  theirs.zero_grad()
  expected = oracle.torch_objective(
    spec, theirs, judge, arrays, nchw(x), nchw(noise)
  )
  for name, value in expected.items():
    np.testing.assert_allclose(
      metrics[name], value.detach(), rtol=1e-4, atol=1e-5, err_msg=name
    )

  grads = lambda opt_state: jax.tree.map(
    lambda mu: mu / (1 - b1), opt_state[0].mu
  )
  expected['loss'].backward(retain_graph=True)
  got = oracle.state_dict(
    grads(after.opt_state)['model'], len(ours.multipliers)
  )
  assert_gradients_near(got, theirs)

  judge.zero_grad()
  expected['disc_loss'].backward()
  convs = [m for m in judge if isinstance(m, torch.nn.Conv2d)]
  for i, conv in enumerate(convs):
    kernel = grads(after.disc_opt_state)[f'conv_{i}']['kernel']
    got = kernel.transpose(3, 2, 0, 1)
    assert_near(got, conv.weight.grad, 1e-3, f'discriminator {i}')
