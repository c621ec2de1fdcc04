"""Checkpoints of other tools, in and out.

  python convert.py import --source=model.ckpt --source_config=config.yaml \
      --workdir=runs/imported
  python convert.py export --workdir=runs/text --format=compvis --out=release

A file is read as data: nothing in it is executed. What does not fit is listed,
name by name, and nothing is written.
"""

import dataclasses
import functools
import json
import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from absl import flags

import ldm_jax
from ldm_jax import build, cli, pipeline, stablehlo, weights
from ldm_jax.data import tokenize
from ldm_jax.interop import (
  card,
  compvis,
  compvis_config,
  compvis_heads,
  compvis_release,
  compvis_text,
  compvis_yaml,
  diffusers,
  diffusers_export,
  files,
)
from ldm_jax.interop.imported import Imported, complete
from ldm_jax.pipeline import Settings
from ldm_jax.training import checkpoint, launcher
from ldm_jax.types import UserError

_SOURCE = cli.string('source', None, 'import: a file or a folder.')
_SOURCE_CONFIG = cli.string(
  'source_config', None, 'import: its YAML, where none lies beside it.'
)
_WORKDIR = cli.string(
  'workdir', None, 'import: the folder to write; export: the run to read.'
)
_USE_EMA = cli.boolean(
  'use_ema', None, 'import: sample by averaged weights; default: as released.'
)
_LEGACY = cli.boolean(
  'legacy', False, "import: read PyTorch's format of before 1.6 too."
)
_LENIENT = cli.boolean(
  'lenient', False, 'import: load what fits, and say what share that is.'
)
_TOKENIZER = cli.string(
  'tokenizer', None, "import: a folder with a text model's tokenizer."
)
_FORMAT = cli.string(
  'format', None, 'export: compvis, diffusers, safetensors or stablehlo.'
)
_OUT = cli.string(
  'out', None, 'export: the folder to write; of stablehlo, the file.'
)
# Of --format=stablehlo, as sample.py has them.
_STEPS = cli.integer('steps', 50, 'Sampling steps.')
_SAMPLER = cli.string('sampler', 'ddim', 'See docs/sampling.md.')
_SPACING = cli.string('spacing', '', 'See docs/sampling.md.')
_SIZE = cli.string('size', None, 'HEIGHTxWIDTH in pixels.')
_BATCH = cli.integer(
  'batch', 0, 'export: the only batch size of a StableHLO file; 0 is any.'
)

# Marks a workdir as written here, so that it may be written again.
MARK = 'import.json'


# --- Import. ---


def import_() -> int:
  """Reads --source, checks it, and writes --workdir in one piece."""
  source = _required(_SOURCE)
  workdir = _required(_WORKDIR).rstrip('/')
  _check_target(workdir)
  kind = detect(source)
  imported = IMPORTS[kind](source)
  # Copied before they are saved: the mapped file is let go of in between.
  imported = dataclasses.replace(
    imported, items=jax.tree.map(jnp.asarray, imported.items)
  )
  config = complete(imported.config)
  weights.check(build.parts(config), imported.items)
  _write_workdir(workdir, config, imported, source)
  print(f'Imported {source} ({kind}) into {workdir}: {_sizes(imported.items)}.')
  for note in imported.notes:
    print(f'Note: {note}')
  return 0


def detect(source: str) -> str:
  """The kind of a file or folder: a key of IMPORTS.

  Raises:
    UserError: nothing is there, or nothing that is known.
  """
  if not os.path.exists(source):
    raise UserError(f'--source={source} does not exist.')
  return 'diffusers' if diffusers.is_folder(source) else 'compvis'


def import_compvis(source: str) -> Imported:
  """A checkpoint of the authors' release, with its YAML."""
  path, config_path = _find_files(source)
  read = compvis_config.read(compvis_yaml.load(config_path), config_path)
  tensors = files.read_tensors(path, _LEGACY.value)
  folder = os.path.dirname(config_path) or '.'
  folders = [_TOKENIZER.value, os.path.join(folder, read.version), folder]
  read, kept = compvis_text.with_local_files(
    compvis.with_clip_sizes(read, tensors), filter(None, folders)
  )
  imported = compvis.read_state(
    tensors,
    read,
    path=path,
    use_ema=_USE_EMA.value,
    initial=weights.untrained if _LENIENT.value else None,
  )
  return dataclasses.replace(imported, files=kept)


def import_diffusers(source: str) -> Imported:
  """A folder of diffusers': a pipeline, or an autoencoder alone."""
  return diffusers.read_folder(
    source,
    use_ema=_USE_EMA.value,
    legacy=_LEGACY.value,
    initial=weights.untrained if _LENIENT.value else None,
  )


IMPORTS = {'compvis': import_compvis, 'diffusers': import_diffusers}


def _find_files(source: str) -> tuple[str, str]:
  """(checkpoint, YAML) of a file or of a folder with one of each."""
  folder, path = os.path.dirname(source), source
  if os.path.isdir(source):
    folder = source
    path = _only(folder, files.CHECKPOINTS, 'checkpoint', 'model')
  if _SOURCE_CONFIG.value:
    return path, _SOURCE_CONFIG.value
  stem = os.path.basename(path).rpartition('.')[0]
  return path, _only(folder, ('.yaml', '.yml'), 'config', stem, 'config')


def _only(folder: str, endings: tuple[str, ...], what: str, *stems) -> str:
  """The file with one of the endings; `stems` decide between several."""
  found = sorted(
    name for name in os.listdir(folder or '.') if name.endswith(endings)
  )
  for stem in stems:
    named = [n for n in found if n.rpartition('.')[0] == stem]
    if named:
      return os.path.join(folder, named[0])
  if len(found) == 1:
    return os.path.join(folder, found[0])
  flag = '--source_config' if what == 'config' else '--source'
  raise UserError(
    f'{folder or "."} holds {len(found)} files that could be the {what} '
    f'({", ".join(found) or "*" + " *".join(endings)}); name it with {flag}.'
  )


def _sizes(items: Mapping[str, Any]) -> str:
  count = lambda tree: sum(
    int(np.prod(x.shape)) for x in weights.flat(tree).values()
  )
  return ', '.join(
    f'{name} {count(items[name]) / 1e6:.2f}M'
    for name in ('model', 'first_stage')
    if name in items
  )


def _check_target(workdir: str):
  """Only a new folder, or one that an import wrote and nothing touched."""
  if not os.path.exists(workdir):
    return
  if not os.path.isdir(workdir):
    raise UserError(f'--workdir={workdir} is a file.')
  there = set(os.listdir(workdir))
  if MARK in there and there <= {MARK, *_marked(workdir)}:
    steps = os.path.join(workdir, 'checkpoints')
    if not os.path.isdir(steps) or set(os.listdir(steps)) <= {'0'}:
      return
  if there:
    raise UserError(
      f'--workdir={workdir} holds something that no import wrote; choose '
      'another folder.'
    )


def _marked(workdir: str) -> list[str]:
  """What an import said it wrote there."""
  try:
    with open(os.path.join(workdir, MARK)) as f:
      return list(json.load(f)['files'])
  except (OSError, ValueError, KeyError, TypeError):
    return []


def _write_workdir(workdir: str, config, imported: Imported, source: str):
  """Written beside it, and then renamed: never half there."""
  partial = f'{workdir}.partial-{os.getpid()}'
  versions = {'ldm_jax': ldm_jax.__version__, 'jax': jax.__version__}
  meta = {**imported.meta, 'versions': versions}
  try:
    checkpoint.write_config(partial, config)
    checkpoints = checkpoint.Checkpoints(partial)
    checkpoints.save(0, imported.items, meta)
    checkpoints.close()
    _write_files(partial, imported.files)
    mark = {
      'source': os.path.basename(source.rstrip('/')),
      'files': sorted(os.listdir(partial)),
    }
    with open(os.path.join(partial, MARK), 'w') as f:
      json.dump(mark, f)
    shutil.rmtree(workdir, ignore_errors=True)
    os.rename(partial, workdir)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _write_files(folder: str, contents: Mapping[str, bytes]):
  for name, content in contents.items():
    place = os.path.join(folder, name)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(place, 'wb') as f:
      f.write(content)


# --- Export. ---


def export() -> int:
  """Reads --workdir and writes --out, which must be new or empty."""
  workdir, out = _required(_WORKDIR), _required(_OUT).rstrip('/')
  formats = FOLDERS | FILES
  if _FORMAT.value not in formats:
    raise UserError(f'--format={_FORMAT.value}; allowed: {", ".join(formats)}.')
  if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
    raise UserError(f'--out={out} is there already; choose a new folder.')
  partial = f'{out}.partial-{os.getpid()}'
  os.makedirs(partial)
  try:
    if _FORMAT.value in FILES:
      path = os.path.join(partial, os.path.basename(out))
      FILES[_FORMAT.value](workdir, path)
      names = _move_files(partial, os.path.dirname(out))
    else:
      FOLDERS[_FORMAT.value](workdir, partial)
      names = sorted(os.listdir(partial))
      shutil.rmtree(out, ignore_errors=True)
      os.rename(partial, out)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  print(f'Exported {workdir} to {out}: {", ".join(names)}.')
  return 0


def _move_files(partial: str, folder: str) -> list[str]:
  """Moves the files of `partial`; returns their names."""
  names = sorted(os.listdir(partial))
  for name in names:
    if os.path.exists(target := os.path.join(folder, name)):
      raise UserError(f'{target} is there already; choose another --out.')
  for name in names:
    os.rename(os.path.join(partial, name), os.path.join(folder, name))
  return names


def read_run(workdir: str) -> tuple[dict, dict, dict, int]:
  """(config, items as numpy, meta, step) of a run's newest valid checkpoint."""
  config = checkpoint.read_config(workdir)
  if config['stage'] == 'classifier':
    raise UserError(
      f'{workdir} holds a classifier of latents, which no format has. Give '
      'the workdir of the run that it guides, or of its first stage.'
    )
  names = ['first_stage']
  if config['stage'] == 'diffusion':
    names += ['model', 'ema']
  step, items, meta = checkpoint.load_step(workdir, names)
  if meta.get('source', {}).get('carried'):
    items |= checkpoint.load_items(workdir, ['carried'], step)[0]
  return config, jax.tree.map(np.asarray, items), meta, step


def export_compvis(workdir: str, out: str):
  """model.ckpt, model.safetensors, config.yaml and README.md in `out`."""
  config, items, meta, step = read_run(workdir)
  config, items = compvis_heads.widened(config, items)
  config, items = compvis_heads.retold(config, items, meta)
  content = compvis_release.write(config, meta)
  tensors = compvis.write_state(config, items, meta, step)
  with open(os.path.join(out, 'config.yaml'), 'w') as f:
    yaml.safe_dump(content, f, sort_keys=False)
  for name in ('model.ckpt', 'model.safetensors'):
    files.write_tensors(os.path.join(out, name), tensors, step)
  _write_files(
    out,
    {
      f'tokenizer/{name}': content
      for name, content in tokenize.files_of(config.get('task', {})).items()
    },
  )
  with open(os.path.join(out, 'README.md'), 'w') as f:
    f.write(card.compvis(config, items, meta, step))


def export_safetensors(workdir: str, out: str):
  """Our own names and layouts, and config.json, in `out`."""
  config, items, meta, step = read_run(workdir)
  tensors = {'/'.join(key): x for key, x in weights.flat(items).items()}
  files.write_tensors(os.path.join(out, 'model.safetensors'), tensors)
  checkpoint.write_config(out, {**config, 'meta': meta})
  with open(os.path.join(out, 'README.md'), 'w') as f:
    f.write(card.safetensors(config, items, meta, step))


def export_diffusers(workdir: str, out: str):
  """A folder that diffusers opens, and README.md, in `out`."""
  config, items, meta, step = read_run(workdir)
  tokenizer = tokenize.files_of(config.get('task', {}))
  notes = diffusers_export.write_folder(config, items, meta, out, tokenizer)
  for note in notes:
    print(f'Note: {note}')
  with open(os.path.join(out, 'README.md'), 'w') as f:
    f.write(card.diffusers(config, items, meta, step, notes))


def export_stablehlo(workdir: str, path: str):
  """The whole sampler as one file, with a .json and a .md beside it."""
  about = stablehlo.write(
    pipeline.load(workdir),
    path,
    Settings(_STEPS.value, _SAMPLER.value, spacing=_SPACING.value),
    cli.size(_SIZE.value),
    _BATCH.value,
  )
  config, items, meta, step = read_run(workdir)
  with open(f'{path}.md', 'w') as f:
    f.write(card.stablehlo(config, items, meta, step, about))


# Functions of (workdir, folder), and of (workdir, path of a file).
FOLDERS = {
  'compvis': export_compvis,
  'diffusers': export_diffusers,
  'safetensors': export_safetensors,
}
FILES = {'stablehlo': export_stablehlo}


# --- The command line. ---

COMMANDS = {'import': import_, 'export': export}


def _required(flag: flags.FlagHolder) -> str:
  if not flag.value:
    raise UserError(f'--{flag.name} is missing.')
  return flag.value


def main(command: str) -> int:
  if command not in COMMANDS:
    raise UserError(f'{command!r}: say what to do, import or export.')
  launcher.check_alone()
  return COMMANDS[command]()


if __name__ == '__main__':
  # absl knows flags only: the command is taken off first.
  given = len(sys.argv) > 1 and not sys.argv[1].startswith('-')
  cli.run(functools.partial(main, sys.argv.pop(1) if given else ''))
