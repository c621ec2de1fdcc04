"""Measures a run as the paper's tables do, or images against images.

  python evaluate.py --workdir=runs/ldm --num=50000 --inception=FILE.pth
  python evaluate.py --workdir=runs/kl --metrics=psnr,ssim,random_rfrechet
  python evaluate.py --samples=out --reference=photos --metrics=fid,kid \
    --inception=FILE.pth --protocol=adm
  python evaluate.py --workdir=runs/ldm --sweep_steps=10,25,50 \
    --sweep_guidance=1,2.5,5

Writes report.json and report.html; docs/evaluation.md says what the numbers
mean. A killed evaluation, started again, goes on.
"""

from absl import flags

from ldm_jax import cli, sampling_flags
from ldm_jax.data import masks
from ldm_jax.evaluation import protocols
from ldm_jax.measuring import evaluate, sweep
from ldm_jax.measuring.options import NAMES, Options
from ldm_jax.training import launcher
from ldm_jax.types import UserError

flags.adopt_module_key_flags(sampling_flags)
_WORKDIR = cli.string('workdir', None, 'A run.')
_STEP = cli.integer('step', None, 'Checkpoint; the newest if unset.')
_SAMPLES = cli.string(
  'samples', None, 'Images to measure: a folder, or an .npz with arr_0.'
)
_REFERENCE = cli.string(
  'reference',
  None,
  'What to compare with: a folder, an .npz (arr_0, mu, sigma), or a split of '
  "the run's data; its training split if unset.",
)
_REFERENCE_NUM = cli.integer('reference_num', 0, 'Its first images; 0 is all.')
_METRICS = cli.strings('metrics', None, ', '.join(NAMES))
_PROTOCOL = cli.string(
  'protocol', 'torch-fidelity', ' or '.join(protocols.PROTOCOLS)
)
_KID_SUBSET = cli.integer('kid_subset_size', None, 'Images of a subset of KID.')
_INCEPTION = cli.string(
  'inception',
  None,
  'pt_inception-2015-12-05-6726825d.pth, or classify_image_graph_def.pb.',
)
_VGG = cli.string('vgg', None, "vgg16-397923af.pth, for neighbours' features.")
_LPIPS = cli.string(
  'lpips', None, 'A folder with vgg16-397923af.pth and vgg.pth (0.1).'
)
_OUT = cli.string(
  'out', None, 'Where the report goes; beside what is measured.'
)
_CACHE = cli.string('cache', None, 'Folder of the statistics of references.')
_SAVE_NPZ = cli.string(
  'save_npz', None, "Write samples and statistics in ADM's format."
)
_NUM = cli.integer(
  'num', None, 'Images to draw, or to reconstruct; 1000.', lower_bound=1
)
_INPUTS = cli.string(
  'inputs', None, "Conditions: a split of the run's data, or 'balanced'."
)
_MASKS = cli.string(
  'masks',
  None,
  'What an inpainting run fills in, in place of its own task.masks: '
  f'{", ".join(masks.SETTINGS)}.',
)
_BATCH = cli.integer('batch_size', 50, 'Images at once.', lower_bound=1)
_SEED = cli.integer('seed', 0, 'Decides all noise.')
_SWEEP = {
  'steps': (
    cli.strings('sweep_steps', None, 'Several, such as 10,25,50.'),
    int,
  ),
  'eta': (cli.strings('sweep_eta', None, 'Several.'), float),
  'guidance': (cli.strings('sweep_guidance', None, 'Several.'), float),
}


def main() -> int:
  options, grid = options_of_flags(), grid_of_flags()
  launcher.initialize()
  if grid is None:
    evaluate.run(options)
  else:
    sweep.run(options, grid)
  return 0


def options_of_flags() -> Options:
  """What the flags say, checked before anything is opened."""
  protocol = protocols.find(_PROTOCOL.value, kid_subset_size=_KID_SUBSET.value)
  return Options(
    workdir=_WORKDIR.value or '',
    step=_STEP.value,
    samples=_SAMPLES.value or '',
    reference=_REFERENCE.value or '',
    metrics=tuple(_METRICS.value or ()),
    num=1000 if _NUM.value is None else _NUM.value,
    reference_num=_REFERENCE_NUM.value,
    inputs=_INPUTS.value or '',
    masks=_MASKS.value or '',
    batch_size=_BATCH.value,
    inception=_INCEPTION.value or '',
    vgg=_VGG.value or '',
    lpips=_LPIPS.value or '',
    cache=_CACHE.value or '',
    out=_OUT.value or '',
    save_npz=_SAVE_NPZ.value or '',
    settings=sampling_flags.settings(),
    seed=_SEED.value,
    protocol=protocol,
  )


def grid_of_flags() -> sweep.Grid | None:
  """The sweep, if there is one; what it does not vary is as in --steps..."""
  if not any(flag.value for flag, _ in _SWEEP.values()):
    return None
  single = sampling_flags.settings()
  values = {}
  for name, (flag, kind) in _SWEEP.items():
    try:
      values[name] = [kind(v) for v in flag.value or [getattr(single, name)]]
    except ValueError as error:
      raise UserError(
        f'--sweep_{name}={",".join(flag.value)} must be numbers: {error}.'
      ) from error
  return sweep.Grid(**values)


if __name__ == '__main__':
  cli.run(main)
