"""The harness of the benchmarks: who is timed, what is compared with what."""

import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from benchmarks import (
  compression,
  device,
  flops,
  growth,
  harness,
  networks,
  programs,
  report,
  sides,
)
from ldm_jax.diffusion import schedule
from ldm_jax.nn import attention


def form(*seconds):
  answers = [
    {'seconds': [s], 'busy': [2 * s], 'peak_mib': 10 * s} for s in seconds
  ]
  return harness.summary(answers)


def test_a_form_is_told_by_its_median_and_quartiles():
  told = form(3.0, 1.0, 2.0, 5.0, 4.0)
  assert told['median_s'] == 3 and told['quartiles_s'] == [2, 4]
  assert told['fastest_s'] == 1 and told['peak_mib'] == 50
  assert told['busy_s'] == 6


def test_a_ratio_is_paired_by_round_and_against_the_peer_s_best():
  # The machine is ten times slower in the last round, for both.
  ratio = harness.ratios(
    {
      'ldm_jax': form(1.0, 1.0, 10.0),
      'torch, eager': form(9.0, 9.0, 90.0),
      'torch, compiled': form(2.0, 3.0, 20.0),
    }
  )
  assert ratio['peer'] == 'torch, compiled'
  assert ratio['median'] == 2.0 and ratio['quartiles'] == [2.0, 2.5]


def test_of_our_forms_one_is_what_the_peers_do():
  forms = {
    'ldm_jax, whole': form(2.0), 'ldm_jax, unet': form(1.0), 'torch': form(4.0),
  }  # fmt: skip
  assert harness.ratios(forms, 'whole')['median'] == 2
  assert harness.ratios({'ldm_jax': form(1.0)}) is None


class Turns:
  """A process that notes when it is asked."""

  def __init__(self, name, forms, order):
    self.name, self.forms, self.order = name, forms, order

  def ask(self, form, times):
    self.order.append(harness.turn_name(self, form))
    return {'seconds': [1.0] * times, 'busy': [1.0] * times, 'peak_mib': 1.0}


def test_turns_go_to_and_fro_and_warming_up_is_not_timed():
  order = []
  running = [Turns('a', ['x', 'y'], order), Turns('b', [''], order)]
  found = harness._take_turns(running, rounds=2, warm_up=3)
  warm_up, rounds = order[:3], order[3:]
  assert warm_up == ['a, x', 'a, y', 'b']
  assert rounds == [*warm_up, *warm_up[::-1]]
  assert all(len(f['seconds']) == 2 for f in found.values())


class Alone:
  """A process that notes when it starts and ends; the peer's dies."""

  log, forms, facts = [], [''], {}

  def __init__(self, module, name, spec, folder):
    self.name, self.child = name, self
    self.log.append(f'{name} starts')

  def poll(self):
    return -9 if self.name == 'peer' else None

  def ask(self, form=None, times=1, answer=None):
    if answer:
      return {'there': False}
    if self.name == 'peer':
      raise harness.Missing('killed')
    return {'seconds': [1.0] * times, 'busy': [1.0] * times, 'peak_mib': 1.0}

  def stop(self):
    self.log.append(f'{self.name} ends')


@pytest.mark.parametrize('apart', [False, True])
def test_sides_apart_are_never_there_at_once(apart, monkeypatch):
  monkeypatch.setattr(harness.Process, 'start', Alone)
  monkeypatch.setattr(Alone, 'log', [])
  flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(apart=apart):
    row = harness.compare('unet_forward', {}, ['peer', 'ldm_jax'], rounds=2)
  in_turn = ['peer starts', 'peer ends', 'ldm_jax starts', 'ldm_jax ends']
  assert (Alone.log == in_turn) == apart
  assert row['missing'] == {'peer': 'killed'}
  assert row['spec'].get('apart', False) == apart
  # Apart, one side's end is not the other's.
  assert list(row['forms']) == (['ldm_jax'] if apart else [])


def test_a_side_answers_what_it_is_asked(tmp_path):
  calls, answers = [], []
  case = sides.Case(
    {'fast': lambda: calls.append('fast'), 'slow': lambda: calls.append('s')},
    answer=lambda: np.arange(3),
  )
  path = str(tmp_path / 'answer.npy')
  asked = [{'form': 'fast', 'times': 2}, {'answer': path}]
  sides.serve(case, map(json.dumps, asked), answers.append)
  assert calls == ['fast'] * 2
  assert len(answers[0]['seconds']) == 2 and answers[0]['peak_mib'] > 1
  assert answers[1] == {'there': True}
  np.testing.assert_array_equal(np.load(path), [0, 1, 2])


def test_memory_counts_from_when_it_is_forgotten():
  held = np.ones(2**25)  # 256 MiB
  del held
  before = sides.peak_memory()
  sides.forget_peak()
  assert sides.peak_memory() <= before


def written(date, seconds, **facts):
  about = {'device': 'cpu x 1', 'gflop': 50.0, 'gbyte': 3.0, **facts}
  row = {
    **harness.row({'unet': 'u', 'dtype': 'float32'}, {}),
    'forms': {'ldm_jax': form(seconds), 'torch, eager': form(1.0)},
    'facts': {'ldm_jax': about},
  }
  row['ratio'] = harness.ratios(row['forms'])
  return {
    'benchmark': 'b', 'date': date, 'command': f'run {seconds}', 'rows': [row],
  }  # fmt: skip


def test_the_table_shows_the_newest_and_how_it_has_changed():
  limits = {
    'benchmark': 'device', 'date': '2026-01-01', 'command': 'c',
    'rows': [
      harness.row({'dtype': 'float32'}, figures, {'device': f'{kind} x 2'})
      for kind, figures in {
        'cpu': {'gflop_per_s': 250.0, 'gbyte_per_s': 20.0},
        'gpu': {'gflop_per_s': 5e5, 'gbyte_per_s': 2e3},
      }.items()
    ],
  }  # fmt: skip
  reports = [limits, written('2026-01-02', 1.0), written('2026-01-03', 0.5)]
  *_, line = report.table(reports).splitlines()
  cells = [c.strip() for c in line.split('|')[1:-1]]
  assert cells[2] == '0.5 s' and cells[4].startswith('**2.00**')
  assert cells[5] == '40%'  # 50 GFLOP in half a second, of 250 per second.
  assert cells[6] == '30%'  # 3 GB in half a second, of 20 per second.
  assert cells[8] == '2.00' and cells[9] == '2026-01-03'
  # A network's own side is the same workload, said or not.
  reports[1]['rows'][0]['spec'] |= {'unet': 'tiny', 'side': 8}
  reports[2]['rows'][0]['spec'] |= {'unet': 'tiny'}
  *_, line = report.table(reports).splitlines()
  assert line.split('|')[9].strip() == '2.00'
  # Another device is another workload.
  reports[-1] = written('2026-01-03', 0.5, device='gpu x 1')
  assert len(report.table(reports).splitlines()) == 2 + 4  # Two of limits.


def test_flops_of_loops_are_of_all_their_turns():
  x, kernel = np.ones((1, 8, 8, 4), np.float32), np.ones((3, 3, 4, 6))

  def conv(x):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  inner = lambda y: jax.lax.map(lambda row: row @ row.T, y[0])  # [8 8 8]
  body = lambda y, _: (y, (conv(y), jax.jit(inner)(y)))
  loop = jax.make_jaxpr(lambda x: jax.lax.scan(body, x, length=5))(x)
  convolution, product = 2 * (8 * 8 * 6) * (9 * 4), 2 * (8 * 8) * 4
  # Of 5 turns and of 5 x 8 products, the first is XLA's to count.
  assert flops.left_out(loop.jaxpr) == 4 * convolution + 39 * product


def test_flops_of_attention_are_those_of_its_products():
  q = np.ones((2, 1024, 4, 32), np.float32)  # Heads that a CPU walks.
  gflop = programs.Program(attention.attend, (q, q, q)).facts['gflop']
  assert gflop == pytest.approx(4 * 2 * 4 * 1024**2 * 32 / 1e9, rel=0.02)


def test_results_are_kept_beside_older_ones(tmp_path, monkeypatch):
  monkeypatch.setattr(harness, 'RESULTS', tmp_path)
  harness.write('b', {'rows': []})
  (tmp_path / 'other.json').write_text('{"rows": []}')  # Of another harness.
  (found,) = report.load(tmp_path)
  assert found['benchmark'] == 'b' and found['command'].startswith('python -m')
  assert (
    found['machine']['cores'] >= 1 and 'jax' in found['machine']['versions']
  )


def test_a_row_of_which_nothing_was_measured_is_a_failure(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(harness, 'RESULTS', tmp_path)
  died = {'missing': {'diffusers': 'killed'}}
  told = harness.row({}, {'images/s': 2.0})
  assert harness.finish('x', [told, {**told, **died}]) == 0
  assert harness.finish('x', [told, {**harness.row({}, {}), **died}]) == 1


def test_the_device_s_limits_are_the_best_of_all_sides():
  found = device.limits({
    'torch, matmul 1000': form(0.01), 'ldm_jax, matmul 1000': form(0.02),
    'torch, read': form(0.2), 'ldm_jax, read': form(0.1),
  })  # fmt: skip
  assert found['gflop_per_s'] == 200
  assert found['gbyte_per_s'] == pytest.approx(4 * 2**26 / 1e8, abs=0.1)


def test_decoding_is_a_share_of_sampling():
  row = {
    'spec': {'batch': 2},
    'forms': {'ldm_jax, sample': form(0.1), 'ldm_jax, decode': form(1.0)},
  }
  ((_, rate),) = compression.throughput(row, steps=10).items()
  assert rate == pytest.approx(2 / 2.0)


def test_growth_by_steps_draws_latents():
  spec = {'unet': 'tiny_plain', 'batch': 2, 'dtype': 'float32', 'steps': 1}
  found = growth.ldm_jax(spec, '').forms['']()
  z, params = networks.inputs(spec)['noise'], networks.unet_params(spec, '')
  t = np.zeros(2)  # One step of a thousand, 'leading'.
  no_condition = networks.conditioning({})
  apply = networks.unet(spec).apply
  eps = apply({'params': params}, z, t, no_condition)
  signal, noise = (
    x[0] for x in (schedule.make().signal, schedule.make().noise)
  )
  np.testing.assert_allclose(found, (z - noise * eps) / signal, atol=1e-4)


def test_no_benchmark_has_a_flag_of_the_process_that_runs_its_sides():
  flags_of = lambda path: {
    *re.findall(r"DEFINE_\w+\(\s*'(\w+)'", path.read_text())
  }
  folder = pathlib.Path(harness.__file__).parent
  its = flags_of(folder / 'side_process.py')
  assert 'module' in its
  for path in folder.glob('*.py'):
    if path.name != 'side_process.py':
      assert not its & flags_of(path), path


def test_a_side_that_ended_between_its_turns_is_missing():
  child = subprocess.Popen(
    [sys.executable, '-c', 'raise SystemExit(3)'],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  child.wait()
  process = harness.Process('peer', child)
  with pytest.raises(harness.Missing, match='peer ended with code 3'):
    process.ask(form='', times=1)
  process.stop()


@pytest.mark.slow
def test_a_side_in_a_process_of_its_own():
  flags.FLAGS.mark_as_parsed()
  spec = {'unet': 'tiny', 'batch': 1, 'dtype': 'float32'}
  row = harness.compare('unet_forward', spec, ['ldm_jax', 'nobody'], rounds=2)
  assert len(row['forms']['ldm_jax']['seconds']) == 2
  assert row['facts']['ldm_jax']['gflop'] > 0
  assert 'nobody' in row['missing']
