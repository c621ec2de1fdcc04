"""diffusers' component configs, read into sections of ours.

Every key that their classes take is read, refused unless it has the one value
that is supported, or without effect on the numbers. Unknown keys that are set
are refused: what they would do is not known here.
"""

from collections.abc import Mapping
from typing import Any

from ldm_jax.interop.component import LARGEST, Component
from ldm_jax.types import UserError


def _widths(c: Component) -> tuple[int, tuple[int, ...]]:
  """(channels, multipliers) of block_out_channels."""
  widths = c.list_of('block_out_channels', int)
  if widths[0] < 1 or any(not 1 <= w <= LARGEST for w in widths):
    raise c.wrong('block_out_channels', widths, 'positive integers')
  if any(w % widths[0] for w in widths):
    raise c.wrong('block_out_channels', widths, 'multiples of the first')
  return widths[0], tuple(w // widths[0] for w in widths)


# --- U-Nets. ---


def unet(values: Mapping, place: str) -> tuple[dict, int, int, int | None]:
  """(our unet section, input channels, context width, sample size).

  The context is 0 wide for a UNet2DModel, which has none.
  """
  c = Component(values, place)
  cross = c.class_name == 'UNet2DConditionModel'
  if not cross and c.class_name != 'UNet2DModel':
    raise UserError(
      f'{place}: _class_name={c.class_name!r}; supported: UNet2DModel, '
      'UNet2DConditionModel.'
    )
  channels, multipliers = _widths(c)
  section = {
    'out_channels': c.integer('out_channels', 4 if cross else 3),
    'channels': channels,
    'multipliers': multipliers,
    'num_res_blocks': c.one('layers_per_block', 2),
    'attention': 'cross' if cross else 'self',
    'norm_groups': c.integer('norm_num_groups', 32),
    'dropout': c.number('dropout', 0.0),
    'scale_shift_norm': c.choice(
      'resnet_time_scale_shift',
      {'default': False, 'scale_shift': True},
      'default',
    ),
  }
  c.fixed(
    act_fn='silu',
    center_input_sample=False,
    downsample_padding=1,
    flip_sin_to_cos=True,
    freq_shift=0,
    mid_block_scale_factor=1,
    norm_eps=1e-5,
    time_embedding_type='positional',
    time_embedding_dim=4 * channels,
  )
  _samplers(c, section, cross)
  context = _cross(c, section) if cross else 0
  if not cross:
    c.fixed(
      add_attention=True,
      mid_block_type='UNetMidBlock2D',
      attn_norm_num_groups=section['norm_groups'],
    )
    # Theirs leaves this norm out where a scale and shift are learned.
    if section['scale_shift_norm'] and not values.get('attn_norm_num_groups'):
      raise c.wrong('attn_norm_num_groups', None, 'a number with scale_shift')
    width = c.get('attention_head_dim')
    if 'attention_head_dim' not in values:
      width = 8  # Their default.
    if width is None:
      section['num_heads'] = 1
    else:
      section['head_width'] = c.integer('attention_head_dim', 8)
  size = c.get('sample_size')
  if isinstance(size, list) and size and all(s == size[0] for s in size):
    size = size[0]
  if size is not None and (type(size) is not int or not 1 <= size <= 2**14):
    raise c.wrong('sample_size', size, 'one integer')
  in_channels = c.integer('in_channels', 4 if cross else 3)
  c.finish()
  return section, in_channels, context, size


def _samplers(c: Component, section: dict, cross: bool) -> None:
  """Reads the types of blocks: attention, and how the resolution changes."""
  last = len(section['multipliers']) - 1
  attention = 'CrossAttn' if cross else 'Attn'

  def read(side: str):
    types = c.list_of(f'{side.lower()}_block_types', str)
    if len(types) != last + 1:
      raise c.wrong(f'{side.lower()}_block_types', types, f'{last + 1} of them')
    sample = c.get(f'{side.lower()}sample_type', 'conv')
    attends, resnet = [], []
    if side == 'Up':
      types = types[::-1]
    for level, kind in enumerate(types):
      kind = kind.removeprefix('UNetRes')  # The first versions' names.
      known = {
        f'{attention}{side}Block2D': (True, not cross and sample == 'resnet'),
        f'{side}Block2D': (False, False),
        f'Resnet{side}sampleBlock2D': (False, True),
      }
      if kind not in known:
        raise c.wrong(f'{side.lower()}_block_types', kind, ', '.join(known))
      attends.append(known[kind][0])
      if level != (last if side == 'Down' else 0):
        resnet.append(known[kind][1])
    return attends, resnet

  (attends, down), (up_attends, up) = read('Down'), read('Up')
  if attends != up_attends or len({*down, *up}) > 1:
    raise UserError(
      f'{c.place}: down_block_types and up_block_types differ in where they '
      'attend, or in how they change the resolution; one rule is needed.'
    )
  levels = tuple(i for i, attend in enumerate(attends) if attend)
  section['attention_levels'] = levels
  section['resblock_updown'] = bool(down and down[0])


def _cross(c: Component, section: dict) -> int:
  """What UNet2DConditionModel has of its own; returns the context's width."""
  c.fixed(
    mid_block_type='UNetMidBlock2DCrossAttn',
    conv_in_kernel=3,
    conv_out_kernel=3,
    resnet_out_scale_factor=1.0,
  )
  section['transformer_depth'] = c.one('transformer_layers_per_block', 1)
  # The key's name is a mistake of theirs: these are numbers of heads.
  heads = c.get('attention_head_dim', 8)
  c.fixed(num_attention_heads=heads)
  widths = [section['channels'] * m for m in section['multipliers']]
  if type(heads) is int:
    heads = [heads] * len(widths)
  if (
    not isinstance(heads, list)
    or len(heads) != len(widths)
    or any(type(h) is not int or h < 1 for h in heads)
  ):
    raise c.wrong('attention_head_dim', heads, 'numbers of heads')
  if len(set(heads)) == 1:
    section['num_heads'] = heads[0]
  elif len({w / h for w, h in zip(widths, heads)}) == 1:
    section['head_width'] = widths[0] // heads[0]
  else:
    raise c.wrong('attention_head_dim', heads, 'one number or one width')
  width = c.get('cross_attention_dim', 1280)
  if isinstance(width, list) and width and all(w == width[0] for w in width):
    width = width[0]
  if type(width) is not int or not 1 <= width <= LARGEST:
    raise c.wrong('cross_attention_dim', width, 'one integer')
  return width


# --- First stages. ---

FIRST_STAGES = {'AutoencoderKL': 'kl', 'VQModel': 'vq'}


def first_stage(values: Mapping, place: str) -> tuple[dict, float | None]:
  """(our first_stage section, scaling factor or None where none is given)."""
  c = Component(values, place)
  if c.class_name not in FIRST_STAGES:
    raise UserError(
      f'{place}: _class_name={c.class_name!r}; supported: '
      f'{", ".join(FIRST_STAGES)}.'
    )
  kind = FIRST_STAGES[c.class_name]
  channels, multipliers = _widths(c)
  down = _attends(c, 'down_block_types', 'DownEncoderBlock2D', len(multipliers))
  up = _attends(c, 'up_block_types', 'UpDecoderBlock2D', len(multipliers))
  if down != up[::-1]:
    raise UserError(
      f'{place}: down_block_types and up_block_types attend at different '
      'levels; encoder and decoder are alike here.'
    )
  z_channels = c.integer('latent_channels', 4 if kind == 'kl' else 3)
  section = {
    'name': kind,
    'z_channels': z_channels,
    'embed_dim': z_channels,
    'channels': channels,
    'multipliers': multipliers,
    'num_res_blocks': c.one('layers_per_block', 1),
    'attention_levels': tuple(i for i, attend in enumerate(down) if attend),
    'mid_attention': c.flag('mid_block_add_attention', True),
    'norm_groups': c.integer('norm_num_groups', 32),
    'in_channels': c.integer('in_channels', 3),
    'out_channels': c.integer('out_channels', 3),
  }
  c.fixed(act_fn='silu')
  if kind == 'vq':
    section['embed_dim'] = c.integer('vq_embed_dim', z_channels)
    section['num_codes'] = c.integer('num_vq_embeddings', 256)
    c.fixed(norm_type='group')
    c.get('lookup_from_codebook')  # Of a decoder that is given indices.
  else:
    c.fixed(use_quant_conv=True, use_post_quant_conv=True)
  c.get('sample_size')
  scale = c.get('scaling_factor')
  if scale is not None:
    scale = c.number('scaling_factor')
    if not scale:
      raise c.wrong('scaling_factor', scale, 'a positive number')
  c.finish()
  return section, scale


def _attends(c: Component, key: str, plain: str, levels: int) -> list[bool]:
  types = c.list_of(key, str)
  if len(types) != levels or not {*types} <= {plain, f'Attn{plain}'}:
    raise c.wrong(key, types, f'{levels} of {plain}, Attn{plain}')
  return [kind != plain for kind in types]


# --- Text encoders. ---


def bert(values: Mapping, place: str) -> dict[str, Any]:
  """Our text task's section, of LDMBertModel's config."""
  c = Component(values, place)
  width = c.integer('d_model', 1280)
  task = {
    'name': 'text',
    'width': width,
    'depth': c.integer('encoder_layers', 32),
    'vocab_size': c.integer('vocab_size', 30522),
    'length': c.integer('max_position_embeddings', 77),
    'num_heads': c.integer('encoder_attention_heads', 8),
    'head_width': c.integer('head_dim', 64),
  }
  c.fixed(encoder_ffn_dim=4 * width, activation_function='gelu')
  return task


def clip_text(values: Mapping, place: str) -> dict[str, Any]:
  """Our clip_text task's section, of CLIPTextModel's config."""
  c = Component(values, place)
  width, heads = c.integer('hidden_size', 512), c.integer(
    'num_attention_heads', 8
  )  # fmt: skip
  if width % heads:
    raise c.wrong('num_attention_heads', heads, f'a divisor of {width}')
  same = {'quick_gelu': 'quick_gelu', 'gelu': 'gelu'}
  c.fixed(layer_norm_eps=1e-5)
  return {
    'name': 'clip_text',
    'width': width,
    'depth': c.integer('num_hidden_layers', 12),
    'num_heads': heads,
    'ffn_width': c.integer('intermediate_size', 2048),
    'vocab_size': c.integer('vocab_size', 49408),
    'length': c.integer('max_position_embeddings', 77),
    'activation': c.choice('hidden_act', same, 'quick_gelu'),
  }


# --- Schedulers. ---

# Theirs -> ours.
SCHEDULES = {
  'scaled_linear': 'linear',
  'linear': 'sqrt_linear',
  'squaredcos_cap_v2': 'cosine',
}
PREDICTIONS = {'epsilon': 'eps', 'v_prediction': 'v', 'sample': 'x0'}
# (spacing, offset, ends on the data) -> our spacing.
SPACINGS = {
  ('leading', 0, True): 'leading',
  ('leading', 1, False): 'offset',
  ('trailing', 0, True): 'trailing',
}
# Whose timesteps are 'linspace' unless they say otherwise; others' 'leading'.
_LINSPACE = (
    'DPMSolverMultistepScheduler', 'EulerAncestralDiscreteScheduler',
    'EulerDiscreteScheduler', 'HeunDiscreteScheduler',
    'UniPCMultistepScheduler',
)  # fmt: skip
SAMPLERS = {
  'DDIMScheduler': 'ddim',
  'DDPMScheduler': 'ddpm',
  'DPMSolverMultistepScheduler': 'dpmpp_2m',
  'EulerAncestralDiscreteScheduler': 'euler_ancestral',
  'EulerDiscreteScheduler': 'euler',
  'HeunDiscreteScheduler': 'heun',
  'PNDMScheduler': 'plms',
  'UniPCMultistepScheduler': 'unipc',
}


def scheduler(values: Mapping, place: str) -> tuple[dict, dict, dict, list]:
  """(our schedule, loss and sampling sections, notes)."""
  c, notes = Component(values, place), []
  kind = c.choice('beta_schedule', SCHEDULES, 'linear')
  schedule = {
    'kind': kind,
    'num_timesteps': c.integer('num_train_timesteps', 1000),
  }
  if kind != 'cosine':
    schedule['start'] = c.number('beta_start', 1e-4)
    schedule['end'] = c.number('beta_end', 0.02)
  if c.get('trained_betas') is not None:
    raise c.wrong('trained_betas', '[...]', 'null: a schedule with a name')
  if c.flag('rescale_betas_zero_snr', False):
    schedule['zero_terminal_snr'] = True
  loss = {'prediction': c.choice('prediction_type', PREDICTIONS, 'epsilon')}

  name = c.class_name
  sampler, own = _sampler(c, notes)
  plms = sampler == 'plms'
  # What a class does not take it ignores, and folders hand it on all the same.
  final = c.get('set_alpha_to_one', not plms)
  final = final or name not in ('DDIMScheduler', 'PNDMScheduler')
  offset = c.get('steps_offset', 0)
  spacing = c.get(
    'timestep_spacing', 'linspace' if name in _LINSPACE else 'leading'
  )
  if spacing == 'trailing':
    offset = 0  # They do not use it there.
  found = SPACINGS.get((spacing, offset, final))
  if own == 'log_snr' and spacing != 'trailing':
    found = None  # Theirs skips the timestep next to the data.
  if c.get('use_karras_sigmas', False):
    found = 'karras'
  if found is None:
    notes.append(
      f'{place}: timestep_spacing={spacing!r}, steps_offset={offset}, '
      f'set_alpha_to_one={final} has no equal here; {own!r} comes '
      'nearest.'
    )
  if plms and not values.get('skip_prk_steps', False):
    notes.append(
      f'{place}: it begins with Runge-Kutta steps (skip_prk_steps=false); '
      'ours begins as the release does.'
    )
  if c.flag('thresholding', False):
    notes.append(
      f'{place}: it thresholds predicted latents (thresholding); ours does '
      'where sampling.threshold says so.'
    )
  if name in ('DDIMScheduler', 'DDPMScheduler') and values.get(
    'clip_sample', True
  ):
    notes.append(
      f'{place}: it clips predicted latents to [-1, 1] (clip_sample); ours '
      'does not.'
    )
  sampling = {'sampler': sampler, 'spacing': found or own}
  return schedule, loss, sampling, notes


def _sampler(c: Component, notes: list) -> tuple[str, str]:
  """(our sampler, the spacing that suits it) of a scheduler of theirs."""
  sampler = SAMPLERS.get(c.class_name)
  if sampler is None:
    notes.append(
      f'{c.place}: {c.class_name} is not a sampler here; DDIM stands for it.'
    )
    return 'ddim', 'leading'
  if sampler not in ('dpmpp_2m', 'unipc'):
    return sampler, 'leading'
  kind, order = c.get('algorithm_type'), c.get('solver_order', 2)
  if sampler == 'dpmpp_2m' and kind == 'sde-dpmsolver++':
    sampler = 'dpmpp_2m_sde'
  elif kind not in (None, 'dpmsolver++') or order != 2:
    notes.append(
      f'{c.place}: algorithm_type={kind!r}, solver_order={order} is no '
      f'sampler here; {sampler!r} of order 2 comes nearest.'
    )
  return sampler, 'log_snr'
