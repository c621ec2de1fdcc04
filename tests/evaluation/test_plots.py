"""Charts are well-formed, and a larger value stands higher."""

import math
import xml.etree.ElementTree as ET

from ldm_jax.evaluation import plots

SERIES = {
  'a <b>': [(1.0, 5.0, 'x & y'), (10.0, 2.0, ''), (100.0, 8.0, '')],
  'c': [(2.0, math.nan, ''), (0.0, 3.0, ''), (3.0, 4.0, '')],
}


def chart(**settings):
  text = plots.line_chart(SERIES, 'speed', 'quality', **settings)
  return text, ET.fromstring(text)


def test_points_stand_where_their_values_say():
  _, tree = chart(log_x=True)
  lines = [
    [tuple(map(float, p.split(','))) for p in line.get('points').split()]
    for line in tree.iter('polyline')
  ]
  (x0, y0), (x1, y1), (x2, y2) = lines[0]
  assert y2 < y0 < y1  # Pixels count downward.
  assert abs((x1 - x0) - (x2 - x1)) < 0.5  # Decades are even.
  assert len(lines[1]) == 1  # Neither NaN nor what has no logarithm.


def test_words_are_escaped_and_nothing_is_fetched():
  text, tree = chart()
  titles = [title.text for title in tree.iter('title')]
  assert any(t.startswith('a <b> x & y: 5 at 1') for t in titles)
  assert 'http' not in text and '<script' not in text


def test_ticks_are_round_and_inside():
  axis = plots._Axis([0.03, 0.97], 0, 100)
  assert axis.ticks() == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
  assert all(0 <= axis.at(t) <= 100 for t in axis.ticks())
  assert 3 <= len(plots._Axis([7.0], 0, 100).ticks()) <= 8


def test_logarithmic_ticks_are_round_numbers():
  axis = plots._Axis([math.log10(3), math.log10(60)], 0, 100)
  values = [round(10**t, 9) for t in axis.log_ticks()]
  assert values == [5, 10, 20, 50]
  assert plots._Axis([0.0, 5.0], 0, 100).log_ticks() == [0, 1, 2, 3, 4, 5]


def test_nothing_to_draw():
  assert 'Nothing' in plots.line_chart({}, 'x', 'y')
