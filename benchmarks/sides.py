"""One side of a comparison: how it is described, and the process it runs in.

A side is a function of a benchmark's module, `NAME(spec, folder) -> Case`. It
runs in a process of its own, so that neither library's threads, allocator or
caches touch the other's; `harness` starts `side_process` for each, and tells
them whose turn it is.
"""

import dataclasses
import json
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass
class Case:
  """What a side can do.

  Attributes:
    forms: by name, functions that do the work once and return when it is done.
    facts: what is known beforehand: FLOPs, compile time, versions, ...
    answer: what the work came to, to compare with the other side's.
  """

  forms: Mapping[str, Callable[[], Any]]
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)
  answer: Callable[[], np.ndarray] | None = None


def peak_memory() -> float:
  """MiB of this process at most since `forget_peak`, or since its start."""
  try:
    with open('/proc/self/status') as f:
      (line,) = (s for s in f if s.startswith('VmHWM'))
    return int(line.split()[1]) / 1024
  except (OSError, ValueError):
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak() -> None:
  """Lets the peak count from now on, where the system can (Linux)."""
  try:
    with open('/proc/self/clear_refs', 'w') as f:
      f.write('5')
  except OSError:
    pass


def serve(case: Case, read, write) -> None:
  """Answers lines of JSON: {'form': NAME, 'times': N} or {'answer': PATH}."""
  for line in read:
    asked = json.loads(line)
    if 'answer' in asked:
      if case.answer is not None:
        np.save(asked['answer'], np.asarray(case.answer(), np.float32))
      write({'there': case.answer is not None})
      continue
    run, seconds, busy = case.forms[asked['form']], [], []
    forget_peak()
    for _ in range(asked['times']):
      start = time.perf_counter(), time.process_time()
      run()
      seconds.append(time.perf_counter() - start[0])
      busy.append(time.process_time() - start[1])
    write({'seconds': seconds, 'busy': busy, 'peak_mib': peak_memory()})
