"""Reads every image of a dataset before a run does, and says what it found.

    python -m ldm_jax.data.verify --path=FOLDER [--size=256] [--out=BAD.jsonl]
    python -m ldm_jax.data.verify --source=tfds:NAME --split=train

Exit code: 0, all can be used; 1, some cannot; 2, the command is wrong.
"""

import concurrent.futures
import dataclasses
import json
import os
import sys

import numpy as np
from absl import flags

from ldm_jax import command
from ldm_jax.data import folder, images, sources, workers
from ldm_jax.data.examples import Read
from ldm_jax.data.spec import DataSpec
from ldm_jax.types import UserError

FLAGS = flags.FLAGS

# Bad images that the report names; --out has them all.
_NAMED = 20


@dataclasses.dataclass(frozen=True)
class Report:
  """What `verify` found.

  Attributes:
    source: the source, as a person names it.
    shapes: height and width of every image that can be used, [N 2].
    bad: (index, name, reason) of the others.
    labels: how many different labels there are.
    captioned: how many images have a caption.
  """

  source: str
  shapes: np.ndarray
  bad: list[tuple[int, str, str]]
  labels: int
  captioned: int

  def __str__(self) -> str:
    total = len(self.shapes) + len(self.bad)
    lines = [f'{self.source}: {total} images']
    if len(self.shapes):
      shorter = self.shapes.min(1)
      lines.append(
        f'  shorter side: {shorter.min()} to {shorter.max()} px, median'
        f' {np.median(shorter):.0f}'
      )
    lines.append(f'  with a caption: {self.captioned}')
    lines.append(f'  different labels: {self.labels}')
    lines.append(f'  cannot be used: {len(self.bad)} ({self.share:.2%})')
    lines += [f'    {name}: {why}' for _, name, why in self.bad[:_NAMED]]
    if len(self.bad) > _NAMED:
      lines.append(f'    and {len(self.bad) - _NAMED} more (--out lists them)')
    return '\n'.join(lines)

  @property
  def share(self) -> float:
    """The part of the images that cannot be used."""
    return len(self.bad) / max(1, len(self.shapes) + len(self.bad))


def verify(source, spec: DataSpec, progress=lambda done, total: None) -> Report:
  """Reads every example of a source; `progress` hears of each thousand."""
  read = Read(source, spec)

  def look(index):
    try:
      example = read.one(index)
    except images.BadImage as e:
      return index, read.name(index), str(e)
    return example['image'].shape[:2], example.get('label'), 'text' in example

  shapes, bad, labels, captioned = [], [], set(), 0
  with concurrent.futures.ThreadPoolExecutor(workers.num_threads()) as pool:
    for begin in range(0, len(source), 1000):
      end = min(begin + 1000, len(source))
      for found in pool.map(look, range(begin, end)):
        if isinstance(found[0], tuple):
          shape, label, has_text = found
          shapes.append(shape)
          labels |= {label} - {None}
          captioned += has_text
        else:
          bad.append(found)
      progress(end, len(source))
  shapes = np.array(shapes, np.int64).reshape(-1, 2)
  return Report(repr(source), shapes, bad, len(labels), captioned)


def write_bad(path: str, report: Report) -> None:
  """The bad images as `quarantine.jsonl` has them; never over a file."""
  with open(path, 'x', encoding='utf-8') as file:
    for index, name, reason in report.bad:
      line = {'example_id': index, 'path': name, 'reason': reason}
      file.write(json.dumps(line) + '\n')


def _show_progress(done: int, total: int) -> None:
  if sys.stderr.isatty():
    print(f'\r{done} of {total}', end='\n' * (done == total), file=sys.stderr)


def define_flags() -> None:
  """Not on import: other scripts have flags of the same names."""
  flags.DEFINE_string('source', 'folder', 'folder, scenes or tfds:NAME.')
  flags.DEFINE_string('path', '', 'The folder, with all its splits.')
  flags.DEFINE_string('split', 'train', 'The split, except of a folder.')
  flags.DEFINE_string('tfds_data_dir', '', "Default: TFDS's own.")
  flags.DEFINE_integer('size', 1, 'data.size; smaller images are reported.')
  flags.DEFINE_string('out', '', 'A new file that lists what is bad.')


def _run() -> int:
  if FLAGS.out and os.path.exists(FLAGS.out):
    raise UserError(f'--out={FLAGS.out} exists; name a new file.')
  spec = DataSpec(
    source=FLAGS.source,
    size=FLAGS.size,
    path=FLAGS.path,
    tfds_data_dir=FLAGS.tfds_data_dir,
  )
  if spec.source == 'folder':
    source = folder.read_folder(spec.path)
  else:
    source = sources.open_source(spec, FLAGS.split)
  report = verify(source, spec, _show_progress)
  print(report)
  if FLAGS.out:
    write_bad(FLAGS.out, report)
  return int(bool(report.bad))


if __name__ == '__main__':
  define_flags()
  command.run(_run)
