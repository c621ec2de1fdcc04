"""Breaks training on purpose and counts how often nothing was lost.

  make chaos                      a part of each row, some minutes
  make chaos ARGS=--full          every row to its full count, some hours
  python -m tests.chaos --only=resume,killed --minutes=5 --seed=7

Each row is run in a process of its own, up to its count or to `--minutes`,
whichever comes first; what was reached is printed, and written as a line of
JSON to `--out`. Ends with 1 if a single case was not held.
"""

import argparse
import collections
import datetime
import json
import multiprocessing
import os
import pathlib
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback

# name -> (module, full count, short count)
ROWS = {
  'killed': ('outside', 200, 20),
  'resume': ('inside', 78, 8),
  'chained': ('inside', 10, 2),
  'preempted': ('inside', 30, 6),
  'preempted_pair': ('outside', 30, 3),
  'elastic': ('inside', 20, 2),
  'elastic_pods': ('outside', 10, 1),
  'damaged': ('inside', 150, 15),
  'disk_full': ('inside', 10, 2),
  'bad_numbers': ('inside', 20, 4),
  'bad_images': ('images', 1, 1),
  'hangs': ('outside', 12, 6),
  'memory': ('inside', 10, 1),
}


def row(name, count: int, seconds: float, seed: int, verbose, results) -> None:
  """Runs one row in this process and puts what came of it."""
  import importlib

  null = os.open(os.devnull, os.O_WRONLY)
  told = os.fdopen(os.dup(2 if verbose else null), 'w')
  os.dup2(null, 1)
  os.dup2(null, 2)
  module = importlib.import_module(f'tests.chaos.{ROWS[name][0]}')
  begin, held, failed = time.monotonic(), 0, ''
  cases = collections.Counter()
  folder = pathlib.Path(tempfile.mkdtemp(prefix=f'chaos_{name}_'))
  try:
    for case in getattr(module, name)(folder, random.Random(seed)):
      held += 1
      cases[case] += 1
      print(f'{held} {case}', file=told, flush=True)
      if held >= count or time.monotonic() - begin > seconds:
        break
  except BaseException:
    failed = traceback.format_exc()
  finally:
    shutil.rmtree(folder, ignore_errors=True)
  results.put((held, failed, time.monotonic() - begin, dict(cases)))


def environment() -> None:
  """What child processes inherit; before anything imports jax."""
  os.environ['JAX_PLATFORMS'] = 'cpu'
  os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
  cache = pathlib.Path(__file__).parents[2] / '.cache' / 'jax'
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache))
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--full', action='store_true')
  parser.add_argument('--only', default=','.join(ROWS))
  parser.add_argument('--minutes', type=float, default=0.0, help='per row')
  parser.add_argument('--count', type=int, default=0, help='per row')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--out', default='')
  parser.add_argument('--verbose', action='store_true', help='say each case')
  options = parser.parse_args()
  environment()
  # Ended from outside, it takes its row with it.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  context = multiprocessing.get_context('spawn')
  bad = 0
  for name in options.only.split(','):
    _, full, short = ROWS[name]
    count = options.count or (full if options.full else short)
    seconds = 60 * (options.minutes or (120 if options.full else 4))
    results = context.Queue()
    process = context.Process(
      target=row,
      args=(name, count, seconds, options.seed, options.verbose, results),
    )
    process.start()
    try:
      process.join()
    finally:
      process.terminate()
    held, failed, took, cases = (
      results.get()
      if process.exitcode == 0
      else (0, f'the row ended with {process.exitcode}', 0.0, {})
    )
    tried = held + bool(failed)
    bad += bool(failed)
    print(f'{name:15} {held}/{tried} held, {took:.0f} s', flush=True)
    if failed:
      print(failed, file=sys.stderr, flush=True)
    if options.out:
      now = datetime.datetime.now(datetime.UTC)
      line = {
        'row': name, 'held': held, 'tried': tried, 'wanted': count,
        'seconds': round(took), 'seed': options.seed,
        'date': now.isoformat(' ')[:16],
        'cores': len(os.sched_getaffinity(0)), 'machine': platform.machine(),
        'cases': cases,
      }  # fmt: skip
      with open(options.out, 'a', encoding='utf-8') as file:
        file.write(json.dumps(line) + '\n')
  return 1 if bad else 0
