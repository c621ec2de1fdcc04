"""Tests for ldm_jax.training.watchdog. Many processes: tests/chaos."""

import subprocess
import sys
import threading
import time

from ldm_jax.training.watchdog import EXIT_CODE, Watchdog


def test_silence_ends_the_process_naming_rank_phase_and_stack(capsys):
  codes = []
  done = threading.Event()

  def die(code):
    codes.append(code)
    done.set()

  with Watchdog(0.2, die) as watchdog:
    watchdog.at('waiting for data', 37)
    assert done.wait(10)
  assert codes == [EXIT_CODE]
  said = capsys.readouterr().err
  assert 'process 0 has hung' in said
  assert 'waiting for data, at step 37' in said


def test_who_speaks_lives():
  codes = []
  with Watchdog(0.4, codes.append) as watchdog:
    for step in range(20):
      watchdog.at('step', step)
      time.sleep(0.05)
  assert not codes


def test_what_comes_before_the_first_step_may_take_longer():
  codes = []
  with Watchdog(0.2, codes.append) as watchdog:
    time.sleep(0.4)
    assert not codes
    watchdog.at('a step', 1)
    watchdog.compiled()
    time.sleep(0.6)
    assert codes


def test_no_limit_watches_nothing():
  codes = []
  with Watchdog(0, codes.append):
    time.sleep(0.05)
  assert not codes


def test_the_stacks_name_the_function_that_hangs():
  program = (
    'import time\n'
    'from ldm_jax.training.watchdog import Watchdog\n'
    'def stuck(): time.sleep(60)\n'
    'with Watchdog(0.3) as watchdog:\n'
    '  watchdog.at("saving", 5)\n'
    '  stuck()\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, timeout=50
  )
  assert done.returncode == EXIT_CODE
  assert 'saving, at step 5' in done.stderr
  assert 'in stuck' in done.stderr
