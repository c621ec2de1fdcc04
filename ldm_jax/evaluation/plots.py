"""Line charts as inline SVG: no script, no network, light and dark."""

import html
import math
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 48
# Told apart without colour too: each has its own marker.
_COLOURS = ('#3b76d6', '#d9622b', '#2f9e63', '#a352c6', '#b8901d', '#d1477b')

Point = tuple[float, float, str]


def line_chart(
  series: Mapping[str, Sequence[Point]],
  x_label: str,
  y_label: str,
  log_x: bool = False,
) -> str:
  """An <svg>: a line for each of `series`, its points (x, y, what it is).

  Points that are not finite, or not above 0 on a logarithmic axis, are left
  out; a chart without any says so.
  """
  usable = lambda x, y: (
    math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x)
  )
  series = {
    name: [p for p in points if usable(p[0], p[1])]
    for name, points in series.items()
  }
  series = {name: points for name, points in series.items() if points}
  if not series:
    return '<p>Nothing to draw yet.</p>'
  scale = math.log10 if log_x else float
  everything = [p for points in series.values() for p in points]
  x_axis = _Axis([scale(p[0]) for p in everything], _LEFT, _WIDTH - _RIGHT)
  y_axis = _Axis([p[1] for p in everything], _HEIGHT - _BOTTOM, _TOP)
  parts = [_axes(x_axis, y_axis, x_label, y_label, log_x)]
  for i, (name, points) in enumerate(series.items()):
    colour = _COLOURS[i % len(_COLOURS)]
    places = [(x_axis.at(scale(x)), y_axis.at(y)) for x, y, _ in points]
    path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in places)
    parts.append(
      f'<polyline points="{path}" fill="none" stroke="{colour}" '
      'stroke-width="2"/>'
    )
    for (x, y), (x_value, y_value, label) in zip(places, points):
      about = f'{name} {label}: {y_value:.4g} at {x_value:.4g}'
      parts.append(_marker(i, x, y, colour, about))
  legend = ' '.join(
    f'<span><svg width="14" height="14" viewBox="0 0 14 14">'
    f'{_marker(i, 7, 7, _COLOURS[i % len(_COLOURS)], name)}</svg> '
    f'{html.escape(name)}</span>'
    for i, name in enumerate(series)
  )
  title = html.escape(f'{y_label} against {x_label}')
  return (
    f'<figure class="chart"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
    f'aria-label="{title}"><title>{title}</title>{"".join(parts)}</svg>'
    f'<figcaption>{legend}</figcaption></figure>'
  )


class _Axis:
  """Values onto pixels, with room at both ends, and round ticks."""

  def __init__(self, values: Sequence[float], first: float, last: float):
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    self._low, self._high = low - room, high + room
    self._first, self._last = first, last

  def at(self, value: float) -> float:
    share = (value - self._low) / (self._high - self._low)
    return self._first + share * (self._last - self._first)

  def ticks(self) -> list[float]:
    rough = (self._high - self._low) / 6
    unit = 10 ** math.floor(math.log10(rough))
    step = unit * next(n for n in (1, 2, 5, 10) if n * unit >= rough)
    first = math.ceil(self._low / step)
    count = int(math.floor(self._high / step)) - first + 1
    # Rounded, so that 0.1 * 3 is 0.3.
    return [round((first + i) * step, 12) for i in range(count)]

  def log_ticks(self) -> list[float]:
    """Logarithms of 1, 2 and 5 times powers of ten; of those alone if many."""
    decades = range(math.floor(self._low), math.ceil(self._high))
    wide = self._high - self._low > 3
    found = [
      math.log10(n) + decade
      for decade in decades
      for n in ((1,) if wide else (1, 2, 5))
    ]
    return [t for t in found if self._low <= t <= self._high]


def _axes(x_axis, y_axis, x_label, y_label, log_x) -> str:
  bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
  parts = [
    f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" class="axis" fill="none"/>'
  ]
  for value in x_axis.log_ticks() if log_x else x_axis.ticks():
    x, text = x_axis.at(value), f'{10**value if log_x else value:.3g}'
    parts.append(
      f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}" '
      f'class="grid"/><text x="{x:.1f}" y="{bottom + 16}" '
      f'text-anchor="middle">{text}</text>'
    )
  for value in y_axis.ticks():
    y = y_axis.at(value)
    parts.append(
      f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" '
      f'class="grid"/><text x="{_LEFT - 6}" y="{y + 4:.1f}" '
      f'text-anchor="end">{value:.4g}</text>'
    )
  middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
  parts.append(
    f'<text x="{middle_x}" y="{_HEIGHT - 10}" text-anchor="middle">'
    f'{html.escape(x_label)}</text>'
    f'<text x="14" y="{middle_y}" text-anchor="middle" '
    f'transform="rotate(-90 14 {middle_y})">{html.escape(y_label)}</text>'
  )
  return ''.join(parts)


def _marker(kind: int, x: float, y: float, colour: str, about: str) -> str:
  shapes = (
    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"',
    f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"',
    f'<path d="M{x:.1f} {y - 5:.1f}l5 9h-10z"',
    f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"',
  )
  title = f'<title>{html.escape(about)}</title>'
  shape = shapes[kind % len(shapes)]
  return f'{shape} fill="{colour}">{title}</{shape[1:].split()[0]}>'
