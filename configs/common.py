"""The keys that configs share, their defaults, and the tiny variants.

A section's keys are the fields of what it builds (ldm_jax/build.py); a value
that is not set is a placeholder, never None. Sizes and rates that a paper's
row decides are not defaults: the row's file gives them.
"""

import ml_collections
from ml_collections.config_dict import placeholder

# "linear" as the release means it: evenly spaced square roots of betas.
_SCHEDULE = dict(
  kind='linear',
  num_timesteps=1000,
  start=0.0015,
  end=0.0195,
  cosine_s=8e-3,
  zero_terminal_snr=False,
)


def _section(defaults: dict, given: dict) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(defaults | given)


def _run(stage: str, data: dict, optim: dict, num_steps: int, batch_size: int):
  """What both stages have."""
  config = ml_collections.ConfigDict()
  config.stage = stage
  config.seed = 0
  config.num_steps = num_steps
  config.batch_size = batch_size  # over all devices and hosts
  config.grad_accum = 1
  config.dtype = 'bfloat16'  # of activations; parameters are float32
  config.log_every, config.show_every, config.save_every = 100, 5_000, 5_000
  config.eval_every, config.eval_num = 0, 256  # 0: no metrics while training
  config.keep_checkpoints, config.keep_every = 3, 0  # 0: none for good
  config.mesh = dict(data=-1, fsdp=1)  # -1: all devices that fsdp leaves
  config.guard = dict(max_bad_steps=10, spike_limit=0.0, watchdog_minutes=30.0)
  config.profile = dict(start=10, steps=0)
  config.init_from = placeholder(str)  # a workdir: start from its weights
  config.latent_cache = placeholder(str)  # a folder: encode images once
  data_defaults = dict(
    source='folder',
    size=256,
    path='',
    train_split='train',
    eval_split='validation',
    tfds_data_dir='',
    crop='center',
    resize=0,
    min_crop=1.0,
    flip=False,
    resample='lanczos',
    upscale=True,  # as the release does
    num_workers=8,
    num_examples=0,
    max_objects=1,
    holdout=0.0,
    max_bad=0.01,
  )
  config.data = _section(data_defaults, data)
  optim_defaults = dict(
    scale_lr=False,
    schedule='constant',
    warmup_steps=0,
    hold_steps=0,
    decay_steps=0,
    final_fraction=0.0,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.01,
    clip_norm=0.0,
    moment_dtype='float32',
  )
  config.optim = _section(optim_defaults, optim)
  return config


def _blocks() -> dict:
  """What U-Nets and classifiers of latents are built of alike."""
  return dict(
    num_res_blocks=2,
    head_width=placeholder(int),
    num_heads=placeholder(int),
    scale_shift_norm=False,
    resblock_updown=False,
    dropout=0.0,
    norm_groups=32,
    remat=False,
    attention_backend=placeholder(str),
  )


def scenes() -> dict:
  """The `data` section of drawn 32 px scenes."""
  return dict(
    source='scenes', size=32, crop='center', flip=False, num_workers=0
  )


def autoencoder(name: str, **fields) -> dict:
  """The `first_stage` section of a 'kl' or 'vq' autoencoder."""
  return dict(
    name=name,
    channels=128,
    num_res_blocks=2,
    attention_levels=(),
    mid_attention=True,
    dropout=0.0,
    norm_groups=32,
    in_channels=3,
    out_channels=3,
    attention_backend=placeholder(str),
    remat=False,
    tanh_out=False,
  ) | dict(fields)


def make_task(name: str, **fields) -> dict:
  """The `task` section; a row's file gives widths and numbers of classes."""
  tokens = dict(
    num_heads=8,
    head_width=64,
    dropout=0.0,
    attention_backend=placeholder(str),
  )
  text = tokens | dict(
    vocab_file=placeholder(str),  # a BERT vocab.txt
    vocab_size=30_522,
    length=77,
    special_tokens=(101, 102, 0),  # [CLS], [SEP] and [PAD]
  )
  # The sizes and ids are those of Stable Diffusion 1.x.
  clip = dict(
    vocab_file=placeholder(str),  # a folder with vocab.json and merges.txt
    vocab_size=49_408,
    length=77,
    max_length=0,
    special_tokens=(49_406, 49_407, 49_407),  # start, end and padding
    width=768,
    depth=12,
    num_heads=12,
    ffn_width=0,
    activation='quick_gelu',
    frozen=True,
    attention_backend=placeholder(str),
  )
  masked = dict(
    masks='lama_256',
    latent_scale=1.0,
    hole=-1.0,  # what hidden pixels are, in [-1, 1]
    mask_low=-1.0,  # the mask where pixels are known; 1 where not
    mask_first=False,
  )
  defaults = dict(
    class_label=dict(
      null_label=placeholder(bool),  # where null_prob is above 0
    ),
    clip_text=clip,
    inpainting=masked,
    inpainting_clip_text=clip
    | masked
    | dict(hole=0.0, mask_low=0.0, mask_first=True),
    inpainting_text=text | masked,
    layout=tokens
    | dict(
      vocab_size=8192,
      length=92,
      crop_tokens=True,
      num_classes=placeholder(int),  # as many as the vocabulary has ids
    ),
    semantic=dict(channels=3, stages=2, ignore_index=255),
    super_resolution=dict(factor=4, degradation='bicubic'),
    text=text,
    unconditional={},
  )
  return dict(name=name) | defaults[name] | fields


def first_stage(
  model: dict,
  *,
  batch_size: int,
  num_steps: int = 500_000,  # The paper does not print it.
  loss: dict | None = None,
  data: dict | None = None,
  optim: dict | None = None,
) -> ml_collections.ConfigDict:
  """A first stage's training, with the release's optimizer and random crops.

  Of which images (`data.resize`) is the row's to say; that half of them are
  mirrored is ours.
  """
  data = dict(crop='random', flip=True) | (data or {})
  # Adam, at 4.5e-6 for each image of the batch.
  adam = dict(
    learning_rate=4.5e-6, scale_lr=True, b1=0.5, b2=0.9, weight_decay=0.0
  )
  config = _run(
    'first_stage', data, adam | (optim or {}), num_steps, batch_size
  )
  config.first_stage = model
  loss_defaults = dict(
    pixel='l1',
    perceptual_weight=1.0,
    lpips_path=placeholder(str),
    kl_weight=1e-6,
    codebook_weight=1.0,
    learn_logvar=False,
    logvar_init=0.0,
    disc_weight=0.5,
    disc_start=50_001,
    disc_warmup=0,
    disc_loss='hinge',
    disc_layers=3,
    disc_channels=64,
    adaptive=True,
  )
  config.loss = _section(loss_defaults, loss or {})
  return config


def diffusion(
  *,
  first_stage: dict,
  task: dict,
  unet: dict,
  optim: dict,
  batch_size: int,
  num_steps: int,
  data: dict | None = None,
  schedule: dict | None = None,
  loss: dict | None = None,
  sampling: dict | None = None,
  scale_factor: float | None = None,  # None: estimated, as for KL latents.
  null_prob: float = 0.0,
) -> ml_collections.ConfigDict:
  """A latent diffusion model's training."""
  config = _run('diffusion', data or {}, optim, num_steps, batch_size)
  config.first_stage = first_stage
  config.first_stage_from = placeholder(str)  # the workdir of a first stage
  config.scale_factor = placeholder(float)
  if scale_factor is not None:
    config.scale_factor = scale_factor
  config.scale_batches = 8
  config.task = make_task(**task)
  config.null_prob = null_prob
  unet_defaults = dict(
    # The latent's channels; the identity's are the image's.
    out_channels=first_stage.get('embed_dim', 3),
    attention='self',
    transformer_depth=1,
  )
  config.unet = _section(_blocks() | unet_defaults, unet)
  config.schedule = _section(_SCHEDULE, schedule or {})
  loss_defaults = dict(
    prediction='eps',
    kind='l2',
    simple_weight=1.0,
    elbo_weight=0.0,
    learn_logvar=False,
    logvar_init=0.0,
    min_snr_gamma=0.0,
    timesteps='uniform',
    logit_mean=0.0,
    logit_std=1.0,
  )
  config.loss = _section(loss_defaults, loss or {})
  config.ema_decay = 0.9999
  # The fixed-seed grids that are drawn while training.
  sampling_defaults = dict(
    num=8,
    steps=50,
    eta=0.0,
    guidance=1.0,
    spacing='',  # The sampler's own.
    sampler='ddim',
    guidance_interval=placeholder(tuple),
    guidance_rescale=0.0,
    threshold=0.0,
    threshold_range=0.0,
  )
  config.sampling = _section(sampling_defaults, sampling or {})
  return config


def classifier(
  *,
  first_stage: dict,
  classifier: dict,
  optim: dict,
  batch_size: int,
  num_steps: int,
  data: dict | None = None,
  schedule: dict | None = None,
) -> ml_collections.ConfigDict:
  """A classifier's training on the noisy latents of a diffusion run."""
  config = _run('classifier', data or {}, optim, num_steps, batch_size)
  config.first_stage = first_stage
  config.first_stage_from = placeholder(str)  # the run that it is to guide
  config.scale_factor = placeholder(float)  # that run's
  config.scale_batches = 8  # with an untrained first stage
  classifier_defaults = dict(pool='attention', hidden=2048)
  config.classifier = _section(_blocks() | classifier_defaults, classifier)
  config.schedule = _section(_SCHEDULE, schedule or {})
  config.loss = ml_collections.ConfigDict()  # Cross-entropy has no settings.
  return config


def select(config, variant: str, **others: dict) -> ml_collections.ConfigDict:
  """The config itself for '', or a variant: 'tiny', or one of `others`.

  `others` holds, by name, nested dicts of the keys that the variant changes.
  """
  if variant == 'tiny':
    return _tiny(config)
  if variant in others:
    config.update(others[variant])
  elif variant:
    names = ', '.join(['tiny', *others])
    raise ValueError(f'No variant {variant!r} of this config; it has: {names}.')
  return config


def _tiny(config) -> ml_collections.ConfigDict:
  """The same kinds of parts, 20 steps of them: a CPU needs about a minute."""
  config.num_steps, config.batch_size, config.dtype = 20, 8, 'float32'
  config.log_every, config.show_every, config.save_every = 5, 20, 20
  model, levels = config.first_stage, 1
  if model.name != 'identity':
    levels = len(model.multipliers)
    model.update(channels=32, multipliers=(1,) * levels, num_res_blocks=1)
  if model.name == 'vq':
    model.num_codes = min(model.num_codes, 64)
  config.data.update(
    source='scenes',
    size=64 if levels > 4 else 32,
    resize=0,
    train_split='train',
    eval_split='validation',
    flip=False,  # Captions say left and right.
    num_workers=0,
  )
  config.optim.update(warmup_steps=0, hold_steps=0)
  if config.stage == 'first_stage':
    config.loss.update(
      perceptual_weight=0.0, disc_start=10, disc_warmup=0, disc_channels=16
    )
    if config.data.size == 32:
      config.loss.disc_layers = 2
    return config

  config.first_stage_from = 'random'  # An untrained one: nothing to wait for,
  config.scale_factor = None  # and its scale is anyone's guess.
  if config.stage == 'classifier':
    config.classifier.update(
      channels=32, multipliers=(1, 2), attention_levels=(1,), num_res_blocks=1
    )
    return config
  unet = config.unet
  unet.update(channels=32, multipliers=(1, 2), attention_levels=(1,))
  unet.update(num_res_blocks=1, transformer_depth=1)
  if unet.head_width is not None:
    unet.head_width = 32
  task = config.task
  task.update({k: v for k, v in dict(width=32, depth=1).items() if k in task})
  if task.name == 'class_label':
    task.num_classes = 41  # 40 of scenes, and the null
  if task.name == 'text':
    task.update(vocab_file='scenes', vocab_size=39, special_tokens=(2, 3, 0))
  config.sampling.update(num=4, steps=5)
  return config
