"""The newest result of every benchmark as one table, and what has changed.

  python -m benchmarks.report

Writes benchmarks/results/README.md. A result is compared with the last one
before it of the same workload and device; older ones stay where they are.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from absl import app

from benchmarks import harness, networks

_HEAD = """# What was measured

Written by `python -m benchmarks.report`. Ratios are the peer's time over ours,
in its best form: above 1, ours is faster. They are medians over the rounds,
[quartiles] beside them. "Before" is our time in the last result of the same
workload and device over this one's. MFU: the program's FLOPs, as XLA counts
them before it optimises, over the device's fastest matrix product. Winograd's
convolutions count as what they cost, which is less than the direct ones.
Results of before 2026-11-23, 14:00, count a loop's body once, and so leave
out most of attention's products where heads are walked. Memory: the bytes that
operations read and write, as XLA counts them in the optimised program (caches
or not, a loop's body once), over what the fastest read moves in that time.
"""


def load(folder: pathlib.Path) -> list[dict[str, Any]]:
  """All reports of the harness, oldest first."""
  reports = [json.loads(p.read_text()) for p in sorted(folder.glob('*.json'))]
  of_harness = lambda r: (
    'benchmark' in r and all('forms' in row for row in r.get('rows', [{}]))
  )
  reports = [r for r in reports if of_harness(r)]
  return sorted(reports, key=lambda r: r['date'])


def rows_of(reports: Iterable[Mapping[str, Any]]) -> dict[str, list[dict]]:
  """By workload, its rows with their report's date and command, oldest first.

  Devices are part of the workload: nothing is compared across them.
  """
  found: dict[str, list[dict]] = {}
  for report in reports:
    for row in report['rows']:
      about = {k: report[k] for k in ('benchmark', 'date', 'command')}
      row = {**row, **about}
      found.setdefault(name_of(row), []).append(row)
  return found


def name_of(row: Mapping[str, Any]) -> str:
  spec = {k: v for k, v in row['spec'].items() if k != 'compiled'}
  about = networks.UNETS.get(spec.get('unet'), {})
  if 'side' in about and spec.get('side') == about['side']:
    spec.pop('side')  # The network's own, said or not.
  spec = ', '.join(f'{k} {v}' for k, v in spec.items() if v is not None)
  return ' | '.join(filter(None, (row['benchmark'], spec, device(row))))


def ours(row: Mapping[str, Any]) -> float | None:
  """Seconds of our form that was compared, or of the only one."""
  names = [n for n in row['forms'] if n.split(',')[0] == harness.OURS]
  name = (row['ratio'] or {}).get('ours') or (names[0] if names else None)
  return row['forms'][name]['median_s'] if name else None


def limits(reports: Iterable[Mapping[str, Any]]) -> dict[tuple, dict]:
  """The newest figures of each device, by its kind and a dtype."""
  return {
    (kind(row), row['spec']['dtype']): row['figures']
    for report in reports
    if report['benchmark'] == 'device'
    for row in report['rows']
  }


def kind(row: Mapping[str, Any]) -> str:
  """Of the device that our side ran on, however many: 'cpu'; '' if none."""
  return device(row).split(' x ')[0]


def device(row: Mapping[str, Any]) -> str:
  return row['facts'].get(harness.OURS, {}).get('device', '')


def line(rows: list[dict], limits: Mapping[tuple, Mapping]) -> str:
  """The newest of a workload's rows, as a row of the table."""
  row = rows[-1]
  name = name_of(row).split(' | ')
  seconds, ratio = ours(row), row['ratio']
  cells = [name[0], ', '.join(name[1:])]
  cells.append(f'{seconds:.4g} s' if seconds else '')
  peer, compared = '', ''
  if ratio:
    low, high = ratio['quartiles']
    peer = f'{row["forms"][ratio["peer"]]["median_s"]:.4g} s, {ratio["peer"]}'
    compared = f'**{ratio["median"]:.2f}** [{low:.2f}, {high:.2f}]'
  cells += [peer, compared]
  facts = row['facts'].get(harness.OURS, {})
  best = limits.get((kind(row), row['spec'].get('dtype', '')), {})
  for work, rate in (('gflop', 'gflop_per_s'), ('gbyte', 'gbyte_per_s')):
    known = seconds and facts.get(work) and best.get(rate)
    cells.append(f'{facts[work] / seconds / best[rate]:.0%}' if known else '')
  cells.append(
    '; '.join(f'{k} {v:.4g}' for k, v in row.get('figures', {}).items())
  )
  past = [ours(r) for r in rows[:-1] if ours(r)]
  cells.append(f'{past[-1] / seconds:.2f}' if past and seconds else '')
  cells += [row['date'][:10], f'`{row["command"]}`']
  return '| ' + ' | '.join(cells) + ' |'


def table(reports: list[Mapping[str, Any]]) -> str:
  head = (
    'benchmark', 'workload', 'ldm_jax', 'peer', 'ratio', 'MFU', 'memory',
    'figures', 'before', 'date', 'command',
  )  # fmt: skip
  lines = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
  best = limits(reports)
  lines += [line(rows, best) for rows in rows_of(reports).values()]
  return '\n'.join(lines) + '\n'


def main(argv):
  del argv
  page = _HEAD + '\n' + table(load(harness.RESULTS))
  path = harness.RESULTS / 'README.md'
  path.write_text(page)
  print(page)


if __name__ == '__main__':
  app.run(main)
