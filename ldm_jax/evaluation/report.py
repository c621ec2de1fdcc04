"""A report as JSON and as one HTML page that needs no network."""

import base64
import html
import io
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ldm_jax import whole
from ldm_jax.evaluation import plots

JSON, PAGE = 'report.json', 'report.html'

# Name in a report -> what a person calls it, and which way is better.
TITLES = {
  'fid': ('FID', 'lower'),
  'sfid': ('sFID', 'lower'),
  'rfid': ('R-FID of the first stage', 'lower'),
  'kid': ('KID', 'lower'),
  'kid_std': ('KID, deviation over subsets', ''),
  'is': ('Inception Score', 'higher'),
  'is_std': ('Inception Score, deviation over splits', ''),
  'precision': ('Precision', 'higher'),
  'recall': ('Recall', 'higher'),
  'precision_float16': ('Precision, distances in float16', 'higher'),
  'recall_float16': ('Recall, distances in float16', 'higher'),
  'density': ('Density', 'higher'),
  'coverage': ('Coverage', 'higher'),
  'random_frechet': ('Random-feature Fréchet distance (not FID)', 'lower'),
  'random_rfrechet': (
    'Random-feature Fréchet distance of reconstructions (not FID)',
    'lower',
  ),
  'psnr': ('PSNR, dB', 'higher'),
  'ssim': ('SSIM', 'higher'),
  'ssim_zero': ('SSIM, zeros outside the image', 'higher'),
  'lpips': ('LPIPS (VGG, v0.1)', 'lower'),
  'pairs': ('Pairs compared', ''),
  'codebook_usage': ('Codebook, share in use', 'higher'),
  'codebook_perplexity': ('Codebook, perplexity', 'higher'),
  'codebook_size': ('Codebook, size', ''),
}


def write(
  folder: str | os.PathLike,
  title: str,
  report: Mapping[str, Any],
  pictures: Mapping[str, np.ndarray] | None = None,
  charts: Mapping[str, str] | None = None,
) -> pathlib.Path:
  """Writes report.json and report.html; returns the page's path.

  Args:
    folder: made if it is not there.
    title: of the page.
    report: 'metrics' and 'sweep' become tables, the rest is listed.
    pictures: uint8 [H W 3] by title.
    charts: SVG by title; see plots.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  plain = _plain(report)
  text = json.dumps(plain, indent=2, ensure_ascii=False) + '\n'
  with whole.written(folder / JSON) as partial:
    partial.write_text(text, encoding='utf-8')
  page = _page(title, plain, pictures or {}, charts or {})
  with whole.written(folder / PAGE) as partial:
    partial.write_text(page, encoding='utf-8')
  return folder / PAGE


def title_of(name: str) -> str:
  """What a person calls a metric."""
  return TITLES.get(name, (name.replace('_', ' '), ''))[0]


def over_training(workdir: str | os.PathLike) -> dict[str, list[plots.Point]]:
  """{metric: [(step, value, source)]} of a run: its log and older reports."""
  workdir, found = pathlib.Path(workdir), {}
  rows = []
  log = workdir / 'metrics.jsonl'
  for line in log.read_text().splitlines() if log.exists() else ():
    try:
      row = json.loads(line)
    except ValueError:
      continue  # A kill tears the last line.
    values = {k: v for k, v in row.items() if k.startswith('eval_')}
    rows.append((row.get('step'), values, 'while training'))
  for path in sorted(workdir.glob(f'evaluation/*/{JSON}')):
    try:
      past = json.loads(path.read_text())
      rows.append((past.get('step'), past.get('metrics', {}), path.parent.name))
    except (ValueError, AttributeError):
      continue
  for step, values, where in rows:
    for name, value in values.items():
      if isinstance(value, (int, float)) and isinstance(step, int):
        found.setdefault(name, []).append((step, value, where))
  return {k: sorted(v) for k, v in found.items()}


def training_charts(workdir: str | os.PathLike) -> dict[str, str]:
  """Charts of what was measured at several steps of a run."""
  return {
    f'{title_of(name)} over training': plots.line_chart(
      {title_of(name): points}, 'training step', title_of(name)
    )
    for name, points in over_training(workdir).items()
    if len({step for step, _, _ in points}) > 1
  }


def sweep_charts(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """Quality against speed, and against guidance, for each metric of a sweep.

  A row has 'steps', 'eta', 'guidance', 'images_per_second' and 'metrics'.
  """
  charts = {}
  number = lambda x: math.nan if x is None else float(x)
  for name in rows[0]['metrics'] if rows else ():
    value = lambda row, name=name: number(row['metrics'].get(name))
    by_speed, by_scale = {}, {}
    for row in rows:
      line = f'guidance {row["guidance"]:g}, eta {row["eta"]:g}'
      speed = number(row['images_per_second'])
      point = speed, value(row), f'{row["steps"]} steps'
      by_speed.setdefault(line, []).append(point)
      line = f'{row["steps"]} steps, eta {row["eta"]:g}'
      point = row['guidance'], value(row), ''
      by_scale.setdefault(line, []).append(point)
    by_speed = {k: sorted(v) for k, v in by_speed.items()}
    by_scale = {k: sorted(v) for k, v in by_scale.items()}
    title = title_of(name)
    charts[f'{title} against speed'] = plots.line_chart(
      by_speed, 'images per second', title, log_x=True
    )
    if len({row['guidance'] for row in rows}) > 1:
      charts[f'{title} against guidance'] = plots.line_chart(
        by_scale, 'guidance', title
      )
  return charts


_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto;
  max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: .25rem 1.2rem .25rem 0;
  border-bottom: 1px solid #8884; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
section.charts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; }
section.charts > div { flex: 1 1 26rem; min-width: 0; max-width: 36rem; }
figure { margin: 0; } figcaption span { margin-right: 1rem; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
svg .axis { stroke: currentColor; } svg .grid { stroke: #8883; }
img { max-width: 100%; height: auto; image-rendering: pixelated; }
.small { opacity: .75; } td.long { overflow-wrap: anywhere; }
"""


def _page(title, report, pictures, charts) -> str:
  parts = []
  if report.get('metrics'):
    parts.append(f'<h2>Metrics</h2>{_metrics(report["metrics"])}')
  for note in report.get('notes', ()):
    parts.append(f'<p>{html.escape(note)}</p>')
  if report.get('sweep'):
    parts.append(f'<h2>Sweep</h2>{_sweep(report["sweep"])}')
  if charts:
    drawn = ''.join(
      f'<div><h2>{html.escape(name)}</h2>{svg}</div>'
      for name, svg in charts.items()
    )
    parts.append(f'<section class="charts">{drawn}</section>')
  for name, image in pictures.items():
    parts.append(f'<h2>{html.escape(name)}</h2>{_image(name, image)}')
  for name, value in report.items():
    if name not in ('metrics', 'sweep', 'notes') and value:
      heading = html.escape(name.replace('_', ' ').capitalize())
      parts.append(f'<h2>{heading}</h2>{_facts(value)}')
  body = '\n'.join(parts)
  return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
{body}
</body></html>
"""


def _metrics(metrics: Mapping[str, float]) -> str:
  rows = []
  for name, value in metrics.items():
    better = TITLES.get(name, ('', ''))[1]
    rows.append(
      f'<tr><td>{html.escape(title_of(name))}</td>'
      f'<td class="number">{_number(value)}</td>'
      f'<td class="small">{better and f"{better} is better"}</td></tr>'
    )
  return f'<table>{"".join(rows)}</table>'


def _sweep(rows: Sequence[Mapping[str, Any]]) -> str:
  names = list(rows[0]['metrics'])
  head = ['steps', 'eta', 'guidance', 'images per second']
  head += [title_of(name) for name in names]
  cells = ''.join(f'<th>{html.escape(name)}</th>' for name in head)
  body = ''
  for row in rows:
    values = [row[k] for k in ('steps', 'eta', 'guidance', 'images_per_second')]
    values += [row['metrics'].get(name) for name in names]
    body += '<tr>' + ''.join(
      f'<td class="number">{_number(value)}</td>' for value in values
    )
    body += '</tr>'
  return f'<table><tr>{cells}</tr>{body}</table>'


def _facts(value: Any) -> str:
  if not isinstance(value, Mapping):
    return f'<p>{html.escape(str(value))}</p>'
  rows = ''.join(
    f'<tr><td>{html.escape(str(k).replace("_", " "))}</td><td class="long">'
    f'{_facts(v) if isinstance(v, Mapping) else _text(v)}</td></tr>'
    for k, v in value.items()
  )
  return f'<table>{rows}</table>'


def _text(value: Any) -> str:
  return _number(value) if isinstance(value, float) else html.escape(str(value))


def _number(value: float | int | None) -> str:
  if value is None:
    return '–'
  return str(value) if isinstance(value, int) else f'{value:.5g}'


def _image(name: str, image: np.ndarray) -> str:
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format='PNG')
  data = base64.b64encode(buffer.getvalue()).decode()
  height, width, _ = image.shape
  wide = max(width, min(1000, 2 * width))  # Small pixels are shown large.
  return (
    f'<img src="data:image/png;base64,{data}" alt="{html.escape(name)}" '
    f'width="{wide}" height="{height * wide // width}">'
  )


def _plain(value: Any) -> Any:
  """What JSON can hold: numbers that are not finite become null."""
  if isinstance(value, Mapping):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(v) for v in value]
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
