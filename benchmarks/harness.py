"""Measures sides beside each other: interleaved, paired, and written down.

Every side runs in its own process (see `sides`). A round gives each form of
each side its turn, forwards and backwards alternately; a ratio is the median of
the rounds' own ratios, so that a slow spell of the machine hits both. What does
not fit in memory twice is measured `--apart`, one side after the other.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

ROUNDS = flags.DEFINE_integer('rounds', 7, 'Timed rounds.', 0)
LIMIT = flags.DEFINE_float(
  'limit', 0.0, 'Seconds of a workload after which no round begins; 0: none.'
)
WARM_UP = flags.DEFINE_integer(
  'warm_up',
  2,
  'Turns before the timed ones, the first of which may compile.',
  1,
)
COMPILED = flags.DEFINE_bool(
  'compiled', True, "Whether torch.compile's form is measured too."
)
APART = flags.DEFINE_bool(
  'apart', False, 'Whether a side ends before the next one starts.'
)
DTYPE = flags.DEFINE_enum(
  'dtype', 'float32', ['float32', 'bfloat16'], 'Of activations.'
)

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'

OURS = 'ldm_jax'
_PAUSE = 0.05  # Seconds in which the last side's threads fall asleep.


class Missing(Exception):
  """A side that this machine cannot run, and why."""


@dataclasses.dataclass
class Process:
  """A side's process, waiting for its turn."""

  name: str
  child: subprocess.Popen
  forms: Sequence[str] = ()
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @classmethod
  def start(cls, module: str, name: str, spec: Mapping, folder: str):
    command = [
      python_of(name), '-m', 'benchmarks.side_process',
      f'--module=benchmarks.{module}', f'--side={name}',
      f'--spec={json.dumps(spec)}', f'--folder={folder}',
    ]  # fmt: skip
    child = subprocess.Popen(
      command,
      cwd=ROOT,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '2'},
    )
    process = cls(name, child)
    about = process._read()
    process.forms, process.facts = about['forms'], about['facts']
    return process

  def ask(self, **message) -> dict[str, Any]:
    with contextlib.suppress(BrokenPipeError):  # It ended: reading says so.
      self.child.stdin.write(json.dumps(message) + '\n')
      self.child.stdin.flush()
    return self._read()

  def stop(self):
    with contextlib.suppress(BrokenPipeError):
      self.child.stdin.close()
    self.child.wait()

  def _read(self) -> dict[str, Any]:
    line = self.child.stdout.readline()
    if not line:
      code = self.child.wait()
      raise Missing(f'the process of {self.name} ended with code {code}')
    return json.loads(line)


def python_of(side: str) -> str:
  """The interpreter that has what the side needs: torch for every peer."""
  if side == OURS or importlib.util.find_spec('torch'):
    return sys.executable
  parity = ROOT / '.venv-parity' / 'bin' / 'python'
  if not parity.exists():
    raise Missing(f'{side} needs torch: run `make test-parity` once')
  return str(parity)


def compare(
  module: str,
  spec: Mapping[str, Any],
  sides: Sequence[str],
  rounds: int | None = None,
  warm_up: int | None = None,
  whole: str = '',
) -> dict[str, Any]:
  """Times every form of every side on one workload.

  Args:
    module: the benchmark's name; it holds a function of each side's name.
    spec: what both sides are given.
    sides: names; they start in this order, so that the first may leave weights
      in the folder for the next.
    rounds: timed turns of each form; --rounds unless given.
    warm_up: turns before them; --warm_up unless given.
    whole: our form that does what the peers do, where there are several.

  Returns:
    {'spec', 'forms': {'side, form': numbers}, 'missing', 'difference',
    'ratio'}; see `summary`, `ratios` and `_difference`. The spec tells how
    they were measured, too.
  """
  rounds = ROUNDS.value if rounds is None else rounds
  warm_up = WARM_UP.value if warm_up is None else warm_up
  spec = {**spec, 'compiled': COMPILED.value}
  if APART.value:
    spec['apart'] = True
  found = {'spec': spec, 'missing': {}, 'facts': {}, 'forms': {}}
  answers = []
  with tempfile.TemporaryDirectory(prefix='ldm_jax_bench_') as folder:
    for together in [[side] for side in sides] if APART.value else [sides]:
      running = []
      try:
        for side in together:
          try:
            running.append(Process.start(module, side, spec, folder))
            found['facts'][side] = dict(running[-1].facts)
          except Missing as error:
            found['missing'][side] = str(error)
        found['forms'] |= _take_turns(running, rounds, warm_up, LIMIT.value)
        answers += _answers(running, folder)
      except Missing as error:  # It had no memory left, say.
        ended = [p.name for p in running if p.child.poll() is not None]
        found['missing'] |= dict.fromkeys(ended, str(error))
      finally:
        for process in running:
          process.stop()
  found['difference'] = _difference(answers)
  found['ratio'] = ratios(found['forms'], whole)
  return found


def _take_turns(
  running: Sequence[Process], rounds: int, warm_up: int, limit: float = 0.0
):
  """{'side, form': summary} after so many rounds, one of them at least."""
  begin = time.monotonic()
  turns = [(p, form) for p in running for form in p.forms]
  firsts, answers = {}, {turn_name(p, form): [] for p, form in turns}
  for process, form in turns:
    seconds = process.ask(form=form, times=max(warm_up, 1))['seconds']
    firsts[turn_name(process, form)] = seconds[0]
  for i in range(rounds):
    if limit and i and time.monotonic() - begin > limit:
      break
    for process, form in turns[:: 1 if i % 2 == 0 else -1]:
      time.sleep(_PAUSE)
      answers[turn_name(process, form)].append(process.ask(form=form, times=1))
  return {
    name: {'first_s': firsts[name], **summary(found)}
    for name, found in answers.items()
  }


def turn_name(process: Process, form: str) -> str:
  return f'{process.name}, {form}' if form else process.name


def summary(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Medians and quartiles of one form's turns."""
  seconds = [s for a in answers for s in a['seconds']]
  low, median, high = quartiles(seconds)
  return {
    'median_s': median,
    'quartiles_s': [low, high],
    'fastest_s': min(seconds, default=None),
    'busy_s': quartiles([s for a in answers for s in a['busy']])[1],
    'peak_mib': max((a['peak_mib'] for a in answers), default=None),
    'seconds': seconds,
  }


def quartiles(values: Sequence[float]) -> tuple[float | None, ...]:
  """(25%, 50%, 75%)."""
  if not values:
    return (None,) * 3
  return tuple(float(x) for x in np.percentile(values, (25, 50, 75)))


def ratios(
  forms: Mapping[str, Mapping[str, Any]], whole: str = ''
) -> dict[str, Any] | None:
  """How many times faster our form is than the best of the peers'.

  Paired by round: the median of the rounds' ratios, with their quartiles. Where
  a time limit left one side, measured apart, more rounds, they have no pair.
  """
  ours = f'{OURS}, {whole}' if whole else OURS
  peers = {
    name: form['median_s']
    for name, form in forms.items()
    if name.split(',')[0] != OURS and form['seconds']
  }
  if not peers or not forms.get(ours, {}).get('seconds'):
    return None
  peer = min(peers, key=peers.get)
  pairs = zip(forms[ours]['seconds'], forms[peer]['seconds'], strict=False)
  low, median, high = quartiles([b / a for a, b in pairs])
  return {
    'ours': ours, 'peer': peer, 'median': median, 'quartiles': [low, high],
  }  # fmt: skip


def _answers(running: Sequence[Process], folder: str) -> list[np.ndarray]:
  """What the sides' work came to, of those that have an answer."""
  arrays = []
  for process in running:
    path = os.path.join(folder, f'answer_{process.name}.npy')
    if process.ask(answer=path)['there']:
      arrays.append(np.load(path))
  return arrays


def _difference(answers: Sequence[np.ndarray]) -> float | None:
  """The largest one from the first, in standard deviations; None of one."""
  if len(answers) < 2:
    return None
  first, *rest = answers
  return max(float(np.abs(a - first).max() / first.std()) for a in rest)


def now() -> datetime.datetime:
  return datetime.datetime.now(datetime.UTC)


def machine() -> dict[str, Any]:
  """The host's processor and cores, and the versions of what runs on it."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    named = [s.split(':')[1].strip() for s in lines if 'model name' in s]
  except OSError:
    named = []
  return {
    'processor': named[0] if named else platform.processor(),
    'cores': os.cpu_count(),
    'versions': {
      'python': platform.python_version(),
      **{k: importlib.metadata.version(k) for k in ('jax', 'jaxlib', 'flax')},
    },
  }


def write(benchmark: str, report: Mapping[str, Any]) -> pathlib.Path:
  """Keeps a report beside the older ones; returns its path."""
  date = now()
  content = {
    'benchmark': benchmark,
    'date': date.isoformat(timespec='seconds'),
    'command': ' '.join(['python -m', f'benchmarks.{benchmark}',
                         *sys.argv[1:]]),
    'load_average': os.getloadavg(),
    'machine': machine(),
    **report,
  }  # fmt: skip
  RESULTS.mkdir(exist_ok=True)
  path = RESULTS / f'{benchmark}_{date:%Y%m%d_%H%M%S}.json'
  path.write_text(json.dumps(content, indent=1) + '\n')
  return path


def row(
  spec: Mapping[str, Any],
  figures: Mapping[str, Any],
  facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """A row of a benchmark that has no sides, in `compare`'s form.

  `facts` are our side's.
  """
  return {
    'spec': dict(spec), 'figures': dict(figures), 'forms': {},
    'facts': {OURS: dict(facts)} if facts else {}, 'missing': {},
    'ratio': None, 'difference': None,
  }  # fmt: skip


def finish(benchmark: str, rows: Sequence[Mapping[str, Any]]) -> int:
  """Writes the report, prints what it says; the exit code.

  It is 1 where this side is missing, or nothing of a row was measured.
  """
  path = write(benchmark, {'rows': list(rows)})
  for row in rows:
    print(json.dumps(row['spec']))
    for side, why in row['missing'].items():
      print(f'  {side} is missing: {why}')
    for name, form in row['forms'].items():
      low, high = form['quartiles_s']
      if form['seconds']:
        print(
          f'  {name}: {form["median_s"]:.4f} s [{low:.4f}, {high:.4f}], '
          f'first {form["first_s"]:.1f} s, {form["peak_mib"]:.0f} MiB'
        )
    if row['ratio']:
      low, high = row['ratio']['quartiles']
      print(
        f'  {row["ratio"]["ours"]} over {row["ratio"]["peer"]}: '
        f'{row["ratio"]["median"]:.3f} [{low:.3f}, {high:.3f}]'
      )
    for name, value in row.get('figures', {}).items():
      print(f'  {name}: {value:.4g}')
    if row['difference'] is not None:
      print(f'  difference: {row["difference"]:.1e} standard deviations')
  print(f'written: {path}')
  failed = lambda row: (
    OURS in row['missing'] or not (row['forms'] or row.get('figures'))
  )
  return int(any(map(failed, rows)))
