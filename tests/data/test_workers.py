"""Worker processes outlive a batch system's signal, but not their parent."""

import os
import signal
import subprocess
import sys
import time

SCRIPT = """
import os, subprocess, sys, time
if sys.argv[1] == 'parent':
  worker = subprocess.Popen([sys.executable, '-c', sys.argv[2], 'worker', ''],
                            stdout=subprocess.PIPE)
  worker.stdout.readline()
  print(worker.pid, flush=True)
else:
  from ldm_jax.data import workers
  workers.start(0, 1)
  print('started', flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
  try:
    os.kill(pid, 0)
    with open(f'/proc/{pid}/stat') as stat:
      return stat.read().rpartition(')')[2].split()[0] != 'Z'
  except (ProcessLookupError, FileNotFoundError):
    return False


def test_a_worker_ignores_signals_and_goes_with_its_parent():
  parent = subprocess.Popen(
    [sys.executable, '-c', SCRIPT, 'parent', SCRIPT], stdout=subprocess.PIPE
  )
  worker = int(parent.stdout.readline())
  try:
    os.kill(worker, signal.SIGINT)
    os.kill(worker, signal.SIGTERM)
    time.sleep(0.5)
    assert is_running(worker)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while is_running(worker) and time.monotonic() < deadline:
      time.sleep(0.1)
    assert not is_running(worker)
  finally:
    parent.kill()
    if is_running(worker):
      os.kill(worker, signal.SIGKILL)
