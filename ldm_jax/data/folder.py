"""Images in a folder: plain, in class folders, or with a metadata file.

`metadata.jsonl` has one object a line with `file_name` (relative to the file
itself) and, for every line or none, `text` (a caption, or several) and `label`
(an int, or a class name), as Hugging Face's ImageFolder reads it. Folders named
after splits hold them; where there are none, or `train` alone, a stable share
of the files is held out for evaluation.
"""

import hashlib
import json
import logging
import os
import posixpath
from collections.abc import Iterator

from ldm_jax.data import images
from ldm_jax.types import UserError

# What each split's folder may be called.
SPLITS = {
  'train': ('train', 'training'),
  'validation': ('validation', 'valid', 'val', 'dev'),
  'test': ('test', 'testing', 'eval'),
}
METADATA = 'metadata.jsonl'


class Folder:
  """Stored images by index; see ldm_jax/data/sources.py.

  Attributes:
    root: the folder as the user gave it.
    files: paths relative to root, with '/', sorted.
    labels: an int for every file, or None.
    texts: a caption, or a list of several, for every file; or None.
    classes: the names behind the labels, or None.
  """

  def __init__(self, root, files, labels=None, texts=None, classes=None):
    self.root, self.files = root, files
    self.labels, self.texts, self.classes = labels, texts, classes

  def __len__(self) -> int:
    return len(self.files)

  def __repr__(self) -> str:
    return f'folder {self.root}'

  def name(self, index: int) -> str:
    return os.path.join(self.root, self.files[index])

  def __getitem__(self, index: int) -> dict:
    example = {'image': images.read(self.name(index))}
    if self.labels is not None:
      example['label'] = self.labels[index]
    if self.texts is not None:
      example['text'] = self.texts[index]
    return example


def open_folder(
  path: str, split: str, *, holdout: float = 0.0, is_train: bool = True
) -> Folder:
  """The images of a split of the folder at `path`; raises UserError.

  Args:
    path: the folder.
    split: 'train', 'validation', 'test' or the name of a folder in it.
    holdout: share of the files that is not trained on, where there is no
      folder for evaluation; chosen by a hash of each file's name, so that it
      stays when files come and go.
    is_train: which side of the holdout is asked for.
  """
  everything = read_folder(path)
  root = everything.root
  folders = _split_folders(root)
  if all(name.lower() in SPLITS['train'] for name in folders):
    return _hold_out(everything, holdout, is_train)
  names = SPLITS.get(split, (split,))
  chosen = [name for name in folders if name.lower() in names]
  if not chosen:
    raise UserError(
      f'{root} has no folder for the split {split!r}; it has'
      f' {", ".join(folders)}. Set data.train_split or data.eval_split.'
    )
  return _select(
    everything,
    lambda name: name.split('/')[0] in chosen,
    f'the split {split!r} of {root}',
  )


def check_folder(path: str) -> str:
  """The folder's full path; raises UserError."""
  if not path:
    raise UserError(
      'data.path is not set: give the folder of the images, '
      '--config.data.path=DIR.'
    )
  root = os.path.abspath(os.path.expanduser(path))
  if not os.path.isdir(root):
    hint = ' Unpack it first.' if os.path.isfile(root) else ''
    raise UserError(f'data.path={path!r} is not a folder.{hint}')
  return root


def read_folder(path: str) -> Folder:
  """All images below `path`, whatever their split; raises UserError.

  All at once, so that every split numbers the classes alike.
  """
  root = check_folder(path)
  files, metadata = set(), []
  for folder, folders, names in os.walk(root, followlinks=True):
    folders[:] = sorted(f for f in folders if not _is_hidden(f))
    inside = os.path.relpath(folder, root).replace(os.sep, '/')
    prefix = '' if inside == '.' else f'{inside}/'
    files.update(prefix + name for name in names if not _is_hidden(name))
    if METADATA in names:
      metadata.append(prefix)
  stored = sorted(f for f in files if f.lower().endswith(images.EXTENSIONS))
  if metadata:
    found = _from_metadata(root, sorted(metadata), files)
    if len(found) < len(stored):
      logging.warning(
        '%d of the %d images in %s are in no %s and are left out.',
        len(stored) - len(found), len(stored), root, METADATA,
      )  # fmt: skip
  else:
    found = _from_classes(root, stored)
  if not len(found):
    raise UserError(
      f'No images in {root}: it holds no file that ends in'
      f' {", ".join(images.EXTENSIONS)}.'
    )
  return found


def _split_folders(root: str) -> list[str]:
  known = {name for names in SPLITS.values() for name in names}
  with os.scandir(root) as entries:
    return sorted(
      e.name for e in entries if e.is_dir() and e.name.lower() in known
    )


def _hold_out(everything: Folder, share: float, is_train: bool) -> Folder:
  if not share:
    if not is_train:
      logging.warning(
        'No images of %s are held out (data.holdout=0): evaluation uses the'
        ' training images.',
        everything.root,
      )
    return everything
  kept = lambda name: is_held_out(name, share) != is_train
  side = 'training' if is_train else 'evaluation'
  return _select(
    everything, kept, f'{side} with data.holdout={share} of {everything.root}'
  )


def is_held_out(name: str, share: float) -> bool:
  """Whether a file is kept for evaluation: a fact of its name alone."""
  return _position(name) < share


def _position(name: str) -> float:
  """A file's place in [0, 1), from its name alone."""
  digest = hashlib.blake2b(
    name.encode('utf-8', 'surrogateescape'), digest_size=8
  )
  return int.from_bytes(digest.digest(), 'big') / 2**64


def _select(everything: Folder, wanted, what: str) -> Folder:
  kept = [i for i, name in enumerate(everything.files) if wanted(name)]
  if not kept:
    raise UserError(f'No images for {what}.')
  pick = lambda values: None if values is None else [values[i] for i in kept]
  return Folder(
    everything.root,
    pick(everything.files),
    pick(everything.labels),
    pick(everything.texts),
    everything.classes,
  )


def _is_hidden(name: str) -> bool:
  return name.startswith('.') or name == '__MACOSX'


def _from_classes(root: str, files: list[str]) -> Folder:
  """Folders directly under the root (or a split's) are classes, if several."""
  splits = set(_split_folders(root))
  inner = [name.split('/')[name.split('/')[0] in splits :] for name in files]
  classes = sorted({parts[0] for parts in inner if len(parts) > 1})
  if len(classes) < 2 or any(len(parts) == 1 for parts in inner):
    return Folder(root, files)
  number = {name: i for i, name in enumerate(classes)}
  labels = [number[parts[0]] for parts in inner]
  return Folder(root, files, labels, classes=classes)


def _from_metadata(root: str, prefixes: list[str], stored: set) -> Folder:
  rows = {}
  for prefix in prefixes:
    path = os.path.join(root, prefix, METADATA)
    for number, line in enumerate(_lines(path), 1):
      if line.strip():
        where = f'{path} line {number}'
        name, row = _parse(prefix, line, where)
        if name not in stored:
          raise UserError(f'{where} names {name!r}, which does not exist.')
        rows[name] = row
  files = sorted(rows)
  texts, labels = (_column(root, files, rows, key) for key in ('text', 'label'))
  classes = None
  if labels is not None and any(isinstance(label, str) for label in labels):
    classes = sorted({str(label) for label in labels})
    number = {name: i for i, name in enumerate(classes)}
    labels = [number[str(label)] for label in labels]
  return Folder(root, files, labels, texts, classes)


def _lines(path: str) -> Iterator[str]:
  """Of a text in UTF-8, with or without a mark at its start."""
  with open(path, encoding='utf-8-sig') as lines:
    try:
      yield from lines
    except UnicodeDecodeError as e:
      raise UserError(f'{path} is not UTF-8: {e}. Save it as UTF-8.') from e


def _parse(prefix: str, line: str, where: str) -> tuple[str, dict]:
  """A line of metadata -> (file's path from the root, the checked object)."""
  try:
    row = json.loads(line)
  except json.JSONDecodeError as e:
    raise UserError(f'{where} is not JSON: {e}.') from e
  name = row.get('file_name') if isinstance(row, dict) else None
  if not isinstance(name, str) or not name:
    raise UserError(f'{where} has no "file_name".')
  joined = posixpath.normpath(prefix + name)
  if posixpath.isabs(joined) or joined.split('/')[0] == '..':
    raise UserError(f'{where} names {name!r}, which lies outside the folder.')
  label, text = row.get('label'), row.get('text')
  if not isinstance(label, (int, str, type(None))):
    raise UserError(f'{where}: label {label!r} is neither an int nor a name.')
  texts = text if isinstance(text, list) and text else [text or '']
  if not all(isinstance(t, str) for t in texts):
    raise UserError(f'{where}: text {text!r} is neither a string nor several.')
  return joined, row


def _column(root: str, files: list[str], rows: dict, key: str) -> list | None:
  """A value for every file, or None where no file has one."""
  values = [rows[name].get(key) for name in files]
  missing = [name for name, value in zip(files, values) if value is None]
  if len(missing) == len(files):
    return None
  if missing:
    raise UserError(
      f'{len(missing)} of {len(files)} images in {root} have no {key!r} in'
      f' {METADATA}, such as {missing[0]}; give all of them one, or none.'
    )
  return values
