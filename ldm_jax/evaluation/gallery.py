"""A folder of samples: PNGs that remember how they were made, and a page.

  out/00000.png ...   samples.jsonl   grid.png   index.html

`samples.jsonl` has a line per image: its file, seed, number, settings and
condition. Conditions that are pictures are in inputs/. The page needs no
network.
"""

import html
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from ldm_jax import whole
from ldm_jax.data import panels
from ldm_jax.types import UserError

INDEX = 'samples.jsonl'
_GRID_LIMIT = 400  # More images than this are too small to see.


class Gallery:
  """Writes samples as they come; `close` adds the grid and the page."""

  def __init__(self, folder: str, title: str, metadata: bool = True):
    """Raises UserError where the folder holds what is not a gallery's, or
    cannot be written to.

    A gallery that is there stays until the first image of this one comes.
    """
    self._folder = pathlib.Path(folder)
    self._title = title
    self._metadata = metadata
    self._rows: list[dict[str, Any]] = []
    whole.check_folder('--out', folder)
    self._before = []
    if (self._folder / INDEX).exists():
      self._before = read_index(folder)
    elif self._folder.exists() and any(self._folder.iterdir()):
      raise UserError(
        f'{folder} holds files that are no samples of ours; nothing is '
        'overwritten. Choose another --out.'
      )

  def _begin(self) -> None:
    """Takes the place of the gallery that was there."""
    for row in self._before:
      for key in ('file', 'input'):
        if key in row:
          (self._folder / row[key]).unlink(missing_ok=True)
    self._folder.mkdir(parents=True, exist_ok=True)
    self._index = (self._folder / INDEX).open('w', encoding='utf-8')

  def add(
    self,
    image: np.ndarray,
    about: Mapping[str, Any],
    picture: np.ndarray | None = None,
  ) -> None:
    """Writes one uint8 image [H W 3] and what is known about it.

    `picture` is its condition's, uint8 [H W 3], to be shown beside it.
    """
    if not self._rows:
      self._begin()
    file = f'{len(self._rows):05d}.png'
    info = PngImagePlugin.PngInfo()
    if self._metadata:
      for key, value in about.items():
        info.add_itxt(
          key, value if isinstance(value, str) else json.dumps(value)
        )
    Image.fromarray(image).save(self._folder / file, pnginfo=info)
    row = {'file': file, **(about if self._metadata else {})}
    if picture is not None:
      row['input'] = f'inputs/{file}'
      (self._folder / 'inputs').mkdir(exist_ok=True)
      Image.fromarray(picture).save(self._folder / row['input'])
    self._rows.append(row)
    self._index.write(json.dumps(row) + '\n')

  def close(self) -> pathlib.Path:
    """Writes grid.png and index.html; returns the page's path."""
    self._index.close()
    images = [
      np.asarray(Image.open(self._folder / row['file']))
      for row in self._rows[:_GRID_LIMIT]
    ]
    Image.fromarray(panels.grid(images)).save(self._folder / 'grid.png')
    page = self._folder / 'index.html'
    page.write_text(_page(self._title, self._rows, images[0].shape))
    return page


def read_index(folder: str) -> list[dict[str, Any]]:
  """The rows of a gallery's samples.jsonl."""
  path = pathlib.Path(folder) / INDEX
  try:
    return [json.loads(line) for line in path.read_text().splitlines()]
  except FileNotFoundError as error:
    raise UserError(
      f'{path} does not exist. Is {folder} a folder that sample.py wrote?'
    ) from error
  except ValueError as error:
    raise UserError(f'{path} is damaged: {error}') from error


def read_images(folder: str) -> tuple[np.ndarray, list[dict[str, Any]]]:
  """(images uint8 [N H W 3], their rows) of a gallery."""
  rows = read_index(folder)
  if not rows:
    raise UserError(f'{folder} has no samples.')
  images = [Image.open(pathlib.Path(folder) / row['file']) for row in rows]
  return np.stack([np.asarray(image.convert('RGB')) for image in images]), rows


_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0 0 .2rem; }
p { margin: 0 0 1.2rem; opacity: .7; }
main { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(SIDEpx, 1fr)); }
figure { margin: 0; }
figure div { display: flex; gap: 4px; }
img { flex: 1; min-width: 0; height: auto; border-radius: 6px; RENDER }
figcaption { font-size: .82rem; padding-top: .3rem; overflow-wrap: anywhere; }
"""


def _page(title: str, rows: list[dict[str, Any]], shape) -> str:
  """The gallery as one HTML file beside its images."""
  height, width, _ = shape
  # Small images are shown large, with their pixels as they are.
  style = _STYLE.replace('SIDE', str(max(128, min(width, 320))))
  style = style.replace(
    'RENDER', 'image-rendering: pixelated;' if width <= 64 else ''
  )
  common = {
    key: value
    for key, value in (rows[0] if rows else {}).items()
    if key != 'file' and all(row.get(key) == value for row in rows)
  }
  facts = ', '.join(f'{k} {v}' for k, v in common.items())
  figures = '\n'.join(_figure(row, common, height, width) for row in rows)
  return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title><style>{style}</style></head><body>
<h1>{html.escape(title)}</h1>
<p>{len(rows)} images of {width}x{height} pixels. {html.escape(facts)}</p>
<main>
{figures}
</main></body></html>
"""


def _figure(row, common, height, width) -> str:
  files = ('input', 'file')
  own = {k: v for k, v in row.items() if k not in (*common, *files)}
  text = html.escape(str(own.get('text', own.get('label', ''))))
  facts = html.escape('  '.join(f'{k}: {v}' for k, v in row.items()))
  pictures = ''.join(
    f'<img src="{row[key]}" alt="{key if key == "input" else text}" '
    f'loading="lazy" width="{width}" height="{height}">'
    for key in files
    if key in row
  )
  return (
    f'<figure title="{facts}"><div>{pictures}</div>'
    f'<figcaption>{text}</figcaption></figure>'
  )
