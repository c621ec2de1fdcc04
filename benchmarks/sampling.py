"""From noise to uint8 images, beside diffusers' own pipelines.

  python -m benchmarks.sampling [--models=ldm4,guided --batches=1 --steps=5]

`ldm4`: CelebA-HQ 256's model (274M, VQ f4), no condition; LDMPipeline.
`guided`: Stable Diffusion 1.5's networks (860M, CLIP, KL f8) at 256 px with
guidance 3; StableDiffusionPipeline. The peer writes its pipeline's folder, and
ours is imported from there. Forms of ours: the whole, and the parts of which it
is made, which give the sampler's overhead: the U-Net alone, that many times.
"""

import os

import numpy as np
from absl import flags

from benchmarks import harness, networks
from benchmarks.sides import Case
from configs.first_stage import kl_f8, vq_f4
from ldm_jax import cli
from ldm_jax.interop import diffusers_release

_MODELS = flags.DEFINE_list('models', ['ldm4', 'guided'], 'Which.')
_BATCHES = flags.DEFINE_list('batches', ['1'], 'Batch sizes.')
_STEPS = flags.DEFINE_integer('steps', 5, 'DDIM steps.', 1)

GUIDANCE = 3.0
# (U-Net of networks, first stage, latents' side, guidance).
MODELS = {
  'ldm4': ('ldm4_274m', 'vq_f4', 64, 1.0),
  'guided': ('sd15_860m', 'kl_f8', 32, GUIDANCE),
  'tiny': ('tiny_plain', 'vq_tiny', 8, 1.0),
}
FIRST_STAGES = {
  'vq_f4': vq_f4.get_model(),
  'kl_f8': kl_f8.get_model(),
  'vq_tiny': {
    **vq_f4.get_model(), 'num_codes': 64, 'channels': 32,
    'multipliers': (1, 2, 2),
  },
}  # fmt: skip
CLIP = dict(
  vocab_size=49408, hidden_size=768, intermediate_size=3072,
  num_hidden_layers=12, num_attention_heads=12,
)  # fmt: skip
LENGTH = 77


def noise(spec) -> np.ndarray:
  """[B h w c]; what both sides' answers begin from."""
  unet, _, side, _ = MODELS[spec['model']]
  given = networks.inputs({'unet': unet, 'batch': spec['batch'], 'side': side})
  return given['noise']


def ldm_jax(spec, folder) -> Case:
  import jax

  from benchmarks import programs
  from ldm_jax import build, pipeline
  from ldm_jax.interop import diffusers
  from ldm_jax.interop.imported import complete

  imported = diffusers.read_folder(os.path.join(folder, 'pipeline'))
  config = {**complete(imported.config), 'dtype': spec['dtype']}
  items = jax.tree.map(jax.numpy.asarray, imported.items)
  params = {k: items[k] for k in ('first_stage', 'model', 'ema')}
  ldm = pipeline.LatentDiffusionPipeline(
    build.parts(config), params, imported.meta['scale_factor']
  )
  unet, _, side, guidance = MODELS[spec['model']]
  batch, steps = spec['batch'], spec['steps']
  rows = {'batch': np.zeros(batch)}
  tokens = {}
  if guidance != 1:
    tokens = {'tokens': np.ones((1, LENGTH), np.int32)}
    rows['tokens'] = np.ones((batch, LENGTH), np.int32)
  f = ldm.parts.first_stage.downsampling
  spacing = 'leading' if guidance == 1 else 'offset'
  settings = dict(steps=steps, guidance=guidance, spacing=spacing)
  cond = ldm.condition(rows)
  null = ldm.null_condition(rows)
  z = noise(spec)
  both = lambda x: np.concatenate([x, x]) if guidance != 1 else x
  doubled = jax.tree.map(
    lambda a, b: both(a) if a is b else np.concatenate([a, b]), null, cond
  ) if guidance != 1 else cond  # fmt: skip
  t = np.full(len(both(z)), 500)

  def network():
    for _ in range(steps):
      jax.block_until_ready(ldm.denoise(both(z), t, doubled))

  def latents():
    return jax.block_until_ready(ldm.sample_latents(z, cond, null, **settings))

  whole = lambda: ldm.sample(
    batch, size=(side * f, side * f), batch_size=batch, **settings, **tokens
  )
  # Of latents: a VQ decoder makes much of a rounding between two codes.
  answer = lambda: np.asarray(latents(), np.float32)
  attention = networks.attention({**spec, 'unet': unet, 'side': side})
  facts = {**programs.versions(), **attention}
  forms = {
    'whole': whole,
    'latents': latents,
    'unet': network,
    'decode': lambda: jax.block_until_ready(ldm.decode(z)),
  }
  return Case(forms, facts, answer)


def diffusers(spec, folder) -> Case:
  import torch

  from benchmarks import peers

  _, _, _, guidance = MODELS[spec['model']]
  pipe = make_pipeline(spec)
  pipe.save_pretrained(os.path.join(folder, 'pipeline'))
  dtype = getattr(torch, spec['dtype'])
  pipe.set_progress_bar_config(disable=True)
  pipe = pipe.to(peers.DEVICE) if dtype == torch.float32 else pipe.to(
    peers.DEVICE, dtype
  )  # fmt: skip
  z = torch.from_numpy(noise(spec)).permute(0, 3, 1, 2).to(peers.DEVICE, dtype)
  batch = spec['batch']
  tokens = torch.ones((batch, LENGTH), dtype=torch.long, device=peers.DEVICE)
  # The empty prompt: start, and ends to the last.
  empty = torch.full_like(tokens, CLIP['vocab_size'] - 1)
  empty[:, 0] -= 1

  def call(parts, kind='np'):
    """The pipeline with these modules: images [B H W 3], or latents."""
    for name, part in parts.items():
      setattr(pipe, name, part)
    if guidance == 1:
      return unconditional(pipe, z, spec['steps'], kind)
    told, null = (pipe.text_encoder(ids)[0] for ids in (tokens, empty))
    return pipe(
      prompt_embeds=told, negative_prompt_embeds=null, latents=z,
      guidance_scale=guidance, num_inference_steps=spec['steps'],
      output_type=kind,
    ).images  # fmt: skip

  decoder = 'vqvae' if guidance == 1 else 'vae'
  parts = {'unet': pipe.unet, decoder: getattr(pipe, decoder)}
  forms = peers.inference_parts(spec, parts, call)
  to_uint8 = lambda x: (np.clip(x, 0, 1) * 255).round().astype(np.uint8)

  def answer():
    with torch.inference_mode():
      return call(parts, 'latent').permute(0, 2, 3, 1).float().cpu().numpy()

  return Case(
    {name: lambda f=f: to_uint8(f()) for name, f in forms.items()},
    peers.facts(),
    answer,
  )


def unconditional(pipe, z, steps, kind):
  """LDMPipeline's loop from given noise, which it does not take."""
  pipe.scheduler.set_timesteps(steps)
  z = z * pipe.scheduler.init_noise_sigma
  for t in pipe.scheduler.timesteps:
    eps = pipe.unet(z, t).sample
    z = pipe.scheduler.step(eps, t, z).prev_sample
  if kind == 'latent':
    return z
  images = pipe.vqvae.decode(z / pipe.vqvae.config.scaling_factor).sample
  images = (images / 2 + 0.5).clamp(0, 1).float()
  return images.cpu().permute(0, 2, 3, 1).numpy()


def make_pipeline(spec):
  """diffusers' pipeline of the model, with random weights."""
  import diffusers
  import torch
  import transformers

  unet, first_stage, side, guidance = MODELS[spec['model']]
  unet = networks.fresh_torch_unet({'unet': unet, 'side': side})
  section = FIRST_STAGES[first_stage]
  f = 2 ** (len(section['multipliers']) - 1)
  config = diffusers_release.first_stage(section, side * f, 1.0)
  torch.manual_seed(1)
  autoencoder = getattr(diffusers, config['_class_name']).from_config(config)
  # Stable Diffusion's pipeline takes no other offset than 1.
  offset = dict(steps_offset=1, set_alpha_to_one=False) if guidance != 1 else {}
  scheduler = diffusers.DDIMScheduler(
    beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012,
    clip_sample=False, **offset,
  )  # fmt: skip
  if guidance == 1:
    return diffusers.LDMPipeline(autoencoder.eval(), unet, scheduler)
  text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**CLIP))
  return diffusers.StableDiffusionPipeline(
    vae=autoencoder.eval(), text_encoder=text.eval(), tokenizer=None,
    unet=unet, scheduler=scheduler, safety_checker=None,
    feature_extractor=None, requires_safety_checker=False,
  )  # fmt: skip


def overhead(row) -> float | None:
  """The sampler's share above the U-Net alone, paired by round."""
  forms = row['forms']
  if 'ldm_jax, latents' not in forms:
    return None
  seconds = [forms[f'ldm_jax, {k}']['seconds'] for k in ('latents', 'unet')]
  return harness.quartiles([a / b - 1 for a, b in zip(*seconds)])[1]


def main() -> int:
  rows = []
  for model in _MODELS.value:
    for batch in map(int, _BATCHES.value):
      spec = {
        'model': model, 'batch': batch, 'steps': _STEPS.value,
        'dtype': harness.DTYPE.value,
      }  # fmt: skip
      row = harness.compare(
        'sampling', spec, ['diffusers', 'ldm_jax'], whole='whole'
      )
      row['figures'] = {'sampler overhead': overhead(row)}
      rows.append(row)
  return harness.finish('sampling', rows)


if __name__ == '__main__':
  cli.run(main)
