"""First stages: images to latents and back (paper, Sec. 3.1, App. G)."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.first_stage import quantize
from ldm_jax.nn.attention import attend
from ldm_jax.nn.layers import Conv, Downsample, GroupNorm, Upsample
from ldm_jax.types import Array, UserError

# 1e-5 is the U-Net's.
_Norm = functools.partial(GroupNorm, epsilon=1e-6)


class ResBlock(nn.Module):
  """Two 3x3 convolutions and a skip; it knows no time."""

  channels: int
  dropout: float = 0.0
  norm_groups: int = 32
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    norm = functools.partial(_Norm, self.norm_groups, dtype=self.dtype)
    conv = functools.partial(Conv, self.channels, dtype=self.dtype)
    h = conv(name='conv1')(nn.silu(norm(name='norm1')(x)))
    h = nn.silu(norm(name='norm2')(h))
    h = nn.Dropout(self.dropout)(h, deterministic=not train)
    h = conv(name='conv2')(h)
    if x.shape[-1] != self.channels:
      x = conv(kernel_size=1, name='shortcut')(x)
    return x + h


class Attention(nn.Module):
  """One head over all positions, with biased projections."""

  norm_groups: int = 32
  backend: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    b, h, w, c = x.shape
    conv = functools.partial(Conv, c, kernel_size=1, dtype=self.dtype)
    y = _Norm(self.norm_groups, dtype=self.dtype, name='norm')(x)
    one_head = lambda name: conv(name=name)(y).reshape(b, h * w, 1, c)
    y = attend(one_head('q'), one_head('k'), one_head('v'), self.backend)
    return x + conv(name='proj_out')(y.reshape(b, h, w, c))


# Fields that an autoencoder hands to its encoder and its decoder.
_SHARED = (
    'channels', 'multipliers', 'num_res_blocks', 'attention_levels',
    'mid_attention', 'dropout', 'norm_groups', 'attention_backend', 'remat',
    'dtype',
)  # fmt: skip


class _Half(nn.Module):
  """What encoder and decoder share. Level i works at 1 / 2**i of the image."""

  out_channels: int
  channels: int
  multipliers: tuple[int, ...]
  num_res_blocks: int
  attention_levels: tuple[int, ...]
  mid_attention: bool
  dropout: float
  norm_groups: int
  attention_backend: str | None
  remat: bool
  dtype: Any

  def block(self, x: Array, width: int, name: str, train: bool) -> Array:
    module = nn.remat(ResBlock, static_argnums=(2,)) if self.remat else ResBlock
    return module(width, self.dropout, self.norm_groups, self.dtype, name=name)(
      x, train
    )

  def attention(self, x: Array, name: str) -> Array:
    module = nn.remat(Attention) if self.remat else Attention
    return module(
      self.norm_groups, self.attention_backend, self.dtype, name=name
    )(x)

  def level(self, x: Array, i: int, count: int, side: str, train: bool):
    """`count` residual blocks of level i, each with attention if it has any."""
    for j in range(count):
      width = self.channels * self.multipliers[i]
      x = self.block(x, width, f'{side}_{i}_block_{j}', train)
      if i in self.attention_levels:
        x = self.attention(x, f'{side}_{i}_attn_{j}')
    return x

  @property
  def whole_levels(self) -> range:
    """Levels that some attention, or the middle, sees whole: see `part`."""
    last = len(self.multipliers) - 1
    return range(min((*self.attention_levels, last)), last + 1)

  def middle(self, x: Array, train: bool) -> Array:
    x = self.block(x, x.shape[-1], 'mid_block_1', train)
    if self.mid_attention:
      x = self.attention(x, 'mid_attn')
    return self.block(x, x.shape[-1], 'mid_block_2', train)


class Encoder(_Half):
  """x [B H W 3] -> [B h w out_channels].

  `part` 'large' stops where levels are reached that attend, or the last one;
  'small' goes on from there. The first sees but neighbours, so it can be run
  in tiles.
  """

  @nn.compact
  def __call__(self, x: Array, train: bool = False, part: str = 'all') -> Array:
    last = len(self.multipliers) - 1
    small = self.whole_levels
    if part != 'small':
      x = Conv(self.channels, dtype=self.dtype, name='conv_in')(x)
    for i in range(last + 1):
      if part not in ('all', 'small' if i in small else 'large'):
        continue
      x = self.level(x, i, self.num_res_blocks, 'down', train)
      if i < last:
        right_and_bottom = ((0, 1), (0, 1))
        x = Downsample(
          right_and_bottom, dtype=self.dtype, name=f'down_{i}_downsample'
        )(x)
    if part == 'large':
      return x
    x = self.middle(x, train)
    x = nn.silu(_Norm(self.norm_groups, dtype=self.dtype, name='norm_out')(x))
    return Conv(self.out_channels, dtype=self.dtype, name='conv_out')(x)


class Decoder(_Half):
  """z [B h w c] -> the last convolution's input [B H W channels].

  `conv_out` is left to the caller: the adaptive discriminator weight is a
  ratio of gradients at its kernel. `part` is as the encoder's, from 'small' to
  'large'.
  """

  def setup(self):
    self.conv_out = Conv(self.out_channels, dtype=self.dtype)

  @nn.compact
  def __call__(self, z: Array, train: bool = False, part: str = 'all') -> Array:
    last = len(self.multipliers) - 1
    small = self.whole_levels
    x = z
    if part != 'large':
      width = self.channels * self.multipliers[last]
      x = Conv(width, dtype=self.dtype, name='conv_in')(x)
      x = self.middle(x, train)
    for i in reversed(range(last + 1)):
      if part not in ('all', 'small' if i in small else 'large'):
        continue
      if i < last:
        x = Upsample(dtype=self.dtype, name=f'up_{i + 1}_upsample')(x)
      # One block more per level than the encoder.
      x = self.level(x, i, self.num_res_blocks + 1, 'up', train)
    if part == 'small':
      return x
    return nn.silu(
      _Norm(self.norm_groups, dtype=self.dtype, name='norm_out')(x)
    )


class _Autoencoder(nn.Module):
  """The fields and methods of both trained first stages.

  Images are float [B H W 3] in [-1, 1], latents [B h w embed_dim] unscaled;
  both are float32 whatever `dtype` the activations have.
  """

  z_channels: int
  embed_dim: int
  channels: int = 128
  multipliers: tuple[int, ...] = (1, 2, 4)
  num_res_blocks: int = 2
  attention_levels: tuple[int, ...] = ()
  mid_attention: bool = True  # Table 6's "without attention" lacks this too.
  dropout: float = 0.0
  norm_groups: int = 32
  in_channels: int = 3
  out_channels: int = 3
  tanh_out: bool = False  # Images are the tanh of the last convolution.
  attention_backend: str | None = None
  remat: bool = False
  dtype: Any = jnp.float32

  # The KL encoder gives a mean and a log-variance for each channel.
  moments_per_channel = 1

  @property
  def downsampling(self) -> int:
    """f = H / h."""
    return 2 ** (len(self.multipliers) - 1)

  @property
  def latent_channels(self) -> int:
    return self.embed_dim

  def setup(self):
    self._check()
    shared = {field: getattr(self, field) for field in _SHARED}
    k = self.moments_per_channel
    self.encoder = Encoder(k * self.z_channels, **shared)
    self.decoder = Decoder(self.out_channels, **shared)
    # Latents stay in float32.
    self.quant_conv = Conv(k * self.embed_dim, kernel_size=1)
    self.post_quant_conv = Conv(self.z_channels, kernel_size=1)

  def _check(self):
    for i, multiplier in enumerate(self.multipliers):
      if self.channels * multiplier % self.norm_groups:
        raise UserError(
          f'norm_groups={self.norm_groups} does not divide the '
          f'{self.channels * multiplier} channels of level {i} of the first '
          'stage; change channels, multipliers or norm_groups.'
        )
    for i in self.attention_levels:
      if i not in range(len(self.multipliers)):
        raise UserError(
          f'attention_levels={self.attention_levels} names level {i}, but '
          f'the first stage has levels 0 to {len(self.multipliers) - 1}.'
        )

  def _encode(self, x: Array, train: bool) -> Array:
    *_, height, width, channels = x.shape
    f = self.downsampling
    if height % f or width % f:
      raise UserError(
        f'Images of {height}x{width} cannot be encoded: this first stage '
        f'divides both sides by {f}; use multiples of {f}.'
      )
    if channels != self.in_channels:
      raise UserError(
        f'Images have {channels} channels; this first stage takes '
        f'{self.in_channels}.'
      )
    return self.quant_conv(self.encoder(x, train)).astype(jnp.float32)

  def head(self, h: Array) -> Array:
    """The decoder's last convolution: h [B H W channels] -> [B H W 3]."""
    x = self.decoder.conv_out(h).astype(jnp.float32)
    return jnp.tanh(x) if self.tanh_out else x

  def codes(self, z: Array) -> Array:
    """What of a latent the decoder is given."""
    return z

  def decode(self, z: Array) -> Array:
    """z [B h w c] -> images [B H W 3]; VQ quantises first, so any z will do."""
    return self.head(self.decoder(self.post_quant_conv(self.codes(z))))

  # The same in two parts, one of which can be run in tiles: first_stage.tiles.

  def encode_large(self, x: Array) -> Array:
    return self.encoder(x, part='large')

  def encode_small(self, h: Array) -> Array:
    """What `encode` gives without rng."""
    z = self.quant_conv(self.encoder(h, part='small')).astype(jnp.float32)
    return z[..., : self.embed_dim]  # Of moments, the mean.

  def decode_small(self, z: Array) -> Array:
    return self.decoder(self.post_quant_conv(self.codes(z)), part='small')

  def decode_large(self, h: Array) -> Array:
    return self.head(self.decoder(h, part='large'))

  def features(
    self, x: Array, rng: Array | None = None, train: bool = False
  ) -> tuple[Array, dict[str, Array]]:
    """What `head` turns into the reconstruction, and the aux of __call__."""
    z, aux = self.bottleneck(x, rng, train)
    return self.decoder(self.post_quant_conv(z), train), aux

  def __call__(
    self, x: Array, rng: Array | None = None, train: bool = False
  ) -> tuple[Array, dict[str, Array]]:
    """x [B H W 3] -> (reconstruction [B H W 3], aux).

    aux holds `z`, and for KL `mean`, `logvar`; for VQ `quantized` (without
    the straight-through trick) and `indices` [B h w].
    """
    h, aux = self.features(x, rng, train)
    return self.head(h), aux


class AutoencoderKL(_Autoencoder):
  """Latents are Gaussian with a learned mean and variance."""

  moments_per_channel = 2

  def moments(self, x: Array, train: bool = False) -> tuple[Array, Array]:
    """(mean, log-variance in [-30, 20]), each [B h w c]."""
    mean, logvar = jnp.split(self._encode(x, train), 2, axis=-1)
    return mean, jnp.clip(logvar, -30.0, 20.0)

  def encode(self, x: Array, rng: Array | None = None) -> Array:
    """A sample of the posterior with rng (see `sample`), else its mode."""
    return sample(*self.moments(x), rng)

  def bottleneck(self, x: Array, rng: Array | None, train: bool):
    mean, logvar = self.moments(x, train)
    z = sample(mean, logvar, rng)
    return z, {'mean': mean, 'logvar': logvar, 'z': z}


class AutoencoderVQ(_Autoencoder, kw_only=True):
  """Latents are rows of a codebook; diffusion works on them unquantised."""

  num_codes: int

  def setup(self):
    super().setup()
    self.quantize = quantize.Codebook(self.num_codes, self.embed_dim)

  def moments(self, x: Array, train: bool = False) -> tuple[Array, None]:
    return self._encode(x, train), None

  def encode(self, x: Array, rng: Array | None = None) -> Array:
    """The latent before quantisation; rng is ignored."""
    del rng
    return self.moments(x)[0]

  def codes(self, z: Array) -> Array:
    """The nearest codes; to gradients it is the identity."""
    z = z.astype(jnp.float32)
    quantized, _ = self.quantize(z)
    return quantized + (z - jax.lax.stop_gradient(z))  # Adds 0, bit for bit.

  def bottleneck(self, x: Array, rng: Array | None, train: bool):
    del rng
    z, _ = self.moments(x, train)
    quantized, indices = self.quantize(z)
    aux = {'z': z, 'quantized': quantized, 'indices': indices}
    return quantize.straight_through(z, quantized), aux


class Identity(nn.Module):
  """Diffusion in pixels: the paper's LDM-1."""

  channels: int = 3

  @property
  def downsampling(self) -> int:
    return 1

  @property
  def latent_channels(self) -> int:
    return self.channels

  def moments(self, x: Array) -> tuple[Array, None]:
    return x, None

  def encode(self, x: Array, rng: Array | None = None) -> Array:
    del rng
    return x

  def decode(self, z: Array) -> Array:
    return z

  def __call__(self, x: Array, rng: Array | None = None, train: bool = False):
    del rng, train
    return x, {'z': x}


def sample(mean: Array, logvar: Array, rng: Array | None) -> Array:
  """Draws from N(mean, exp(logvar)); without rng, the mean itself.

  rng is one key, or one key per image [B]: then an image's noise does not
  depend on the batch that it came in.
  """
  if rng is None:
    return mean
  if rng.ndim == 1 and jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(rng)
  else:
    noise = jax.random.normal(rng, mean.shape)
  return mean + jnp.exp(0.5 * logvar) * noise
