"""The process of one side; `harness` starts it.

  python -m benchmarks.side_process --module=M --side=NAME --spec=JSON \
    --folder=DIR
"""

import importlib
import json
import os
import sys
import time

from absl import flags

from benchmarks import sides
from ldm_jax import cli

_MODULE = flags.DEFINE_string('module', None, 'benchmarks.NAME.')
_SIDE = flags.DEFINE_string('side', None, 'A function there.')
_SPEC = flags.DEFINE_string('spec', '{}', 'Its workload, as JSON.')
_FOLDER = flags.DEFINE_string('folder', None, 'Where the sides share files.')


def main() -> int:
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # What libraries print must not get between.

  def write(message):
    answers.write(json.dumps(message) + '\n')
    answers.flush()

  side = getattr(importlib.import_module(_MODULE.value), _SIDE.value)
  start = time.perf_counter()
  case = side(json.loads(_SPEC.value), _FOLDER.value)
  facts = {**case.facts, 'setup_s': round(time.perf_counter() - start, 2)}
  write({'forms': list(case.forms), 'facts': facts})
  sides.serve(case, sys.stdin, write)
  return 0


if __name__ == '__main__':
  cli.run(main)
