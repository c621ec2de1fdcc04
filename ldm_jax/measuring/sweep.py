"""One command over steps, eta and guidance: quality against speed."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Sequence
from typing import Any

from ldm_jax.data import panels
from ldm_jax.evaluation import report
from ldm_jax.measuring import evaluate, numbers
from ldm_jax.measuring.options import RECONSTRUCTION, Options
from ldm_jax.measuring.session import Session
from ldm_jax.training import processes
from ldm_jax.types import UserError

_PACE = 'pace.json'
_SHOWN = 8  # Samples of each setting in the report.


@dataclasses.dataclass(frozen=True)
class Grid:
  """The settings of a sweep: every combination."""

  steps: Sequence[int]
  eta: Sequence[float]
  guidance: Sequence[float]

  def rows(self) -> list[dict[str, Any]]:
    """Settings, those of one program side by side.

    Only the number of steps, and whether there is guidance at all, are in the
    program; scales and etas are its arguments.
    """
    found = itertools.product(self.steps, self.eta, self.guidance)
    rows = [dict(steps=s, eta=e, guidance=g) for s, e, g in found]
    return sorted(rows, key=lambda r: (r['steps'], r['guidance'] != 1))


def run(options: Options, grid: Grid, say=print) -> dict[str, Any]:
  """Draws and measures each setting, and writes one report.

  The first process measures, and returns the report. Goes on where it was
  stopped: images, and how fast they came, are kept.
  """
  session = Session(options, say)
  if session.is_first_stage or options.samples:
    raise UserError('A sweep draws samples: it needs --workdir, no --samples.')
  wrong = [name for name in session.metrics if name in RECONSTRUCTION]
  if options.metrics and wrong:
    raise UserError(f'--metrics={wrong[0]} does not change in a sweep.')
  table = grid.rows()
  settings = [dataclasses.replace(options.settings, **row) for row in table]
  numbers.check(session, *settings)
  out, measured = session.out / 'sweep', []
  for number, row in enumerate(table):
    name = ' '.join(f'{k} {v:g}' for k, v in row.items())
    say(f'[{number + 1}/{len(table)}] {name}')
    folder = out / name.replace(' ', '_')
    samples = session.drawn(settings[number], folder)
    measure = functools.partial(_measured, session, folder, samples)
    measured.append(processes.by_first(measure))
  finish = functools.partial(_reported, session, out, table, measured)
  return processes.by_first(finish) or {}


def _measured(session: Session, folder, samples) -> tuple[dict, list]:
  """(what is found of these samples, the first of them)."""
  speed = _speed(folder, session.pace['generation'])
  found = numbers.sample_numbers(session, samples)
  session.say('  ' + ', '.join(f'{k} {v:.4g}' for k, v in found.items()))
  row = {'images_per_second': speed, 'metrics': found}
  return row, samples.take(_SHOWN)


def _reported(session: Session, out, table, measured) -> dict[str, Any]:
  """The report of all settings, written."""
  rows = [{**row, **found} for row, (found, _) in zip(table, measured)]
  options = session.options
  content = {
    'sweep': rows,
    'notes': evaluate.notes(session, rows[0]['metrics']),
    **evaluate.about(session),
    'num': options.num,
  }
  content.pop('drawn_with', None)
  shown = [image for _, images in measured for image in images]
  columns = min(_SHOWN, options.num)
  pictures = {
    'Samples, a row for each setting of the table': panels.grid(shown, columns)
  }
  title = f'Sweep of {options.workdir}'
  page = report.write(out, title, content, pictures, report.sweep_charts(rows))
  session.say(f'Report: {page}')
  return content


def _speed(folder, pace) -> float | None:
  """Images per second: measured now, or when they were drawn."""
  path = folder / _PACE
  if pace['images_per_second'] is not None:
    path.write_text(json.dumps(pace))
  elif path.exists():
    return json.loads(path.read_text())['images_per_second']
  return pace['images_per_second']
