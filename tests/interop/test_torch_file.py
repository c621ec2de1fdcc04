"""PyTorch's files without PyTorch: what is in them, and what is refused."""

import os
import pickle
import tracemalloc

import numpy as np
import pytest

from ldm_jax.interop import files
from ldm_jax.types import UserError
from tests.interop import hostile

ALL = {
  **{f'zip, {k}': v for k, v in hostile.ZIPS.items()},
  **{f'legacy, {k}': v for k, v in hostile.LEGACY.items()},
  **{f'safetensors, {k}': v for k, v in hostile.SAFETENSORS.items()},
  **hostile.OTHERS,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_there_are_enough_of_them():
  assert len(ALL) >= 60


@pytest.mark.parametrize('data', ALL.values(), ids=ALL.keys())
def test_hostile_and_damaged_files_are_refused(folder, data):
  path = folder / 'model.ckpt'
  path.write_bytes(data)
  tracemalloc.start()
  try:
    with pytest.raises(UserError) as refusal:
      for x in files.read_tensors(str(path), legacy=True).values():
        x.sum()
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  message = str(refusal.value)
  assert str(path) in message
  assert message.isprintable() and len(message) < 600
  assert os.listdir(folder) == ['model.ckpt']  # Nothing ran.
  assert peak < 2 * len(data) + 256 * 2**20


@pytest.mark.parametrize('legacy', [False, True])
def test_what_a_pickle_asks_for_is_named(folder, legacy):
  data = hostile.LEGACY['code'] if legacy else hostile.ZIPS['code: os.system']
  (folder / 'x.ckpt').write_bytes(data)
  with pytest.raises(UserError, match="asks for 'posix.system'.*executed"):
    files.read_tensors('x.ckpt', legacy=True)


def test_good_files_of_every_kind(folder):
  for data in (hostile.GOOD, hostile.GOOD_LEGACY, hostile.GOOD_SAFETENSORS):
    (folder / 'x').write_bytes(data)
    tensors = files.read_tensors('x', legacy=True)
    assert list(tensors) == ['x']
    np.testing.assert_array_equal(tensors['x'], hostile.VALUES)
    with pytest.raises(ValueError, match='read-only'):
      tensors['x'][0, 0] = 1


def test_strides_offsets_and_shared_storages(folder):
  body = hostile.mapping(
    turned=hostile.tensor((3, 2), (1, 3)),
    last=hostile.tensor((3,), (1,), offset=3),
    one=hostile.tensor((), (), offset=4),
    none=hostile.tensor((0, 7), (7, 1)),
  )
  (folder / 'x.pt').write_bytes(hostile.of(body))
  tensors = files.read_tensors('x.pt')
  np.testing.assert_array_equal(tensors['turned'], hostile.VALUES.T)
  np.testing.assert_array_equal(tensors['last'], [3, 4, 5])
  assert tensors['one'].shape == () and tensors['one'] == 4
  assert tensors['none'].shape == (0, 7)


def test_what_trainers_add_is_passed_over(folder):
  callback = hostile.name('pytorch_lightning.callbacks', 'ModelCheckpoint')
  body = hostile.mapping(
    state_dict=hostile.mapping(x=hostile.tensor()),
    callbacks=b'}(' + callback + hostile.mapping(best=b'N') + b'u',
    hparams=hostile.name('argparse', 'Namespace') + b')\x81}b',
    epoch=hostile.number(7),
    dtype=hostile.name('torch', 'float32'),
  )
  (folder / 'x.ckpt').write_bytes(hostile.of(body))
  assert list(files.read_tensors('x.ckpt')) == ['x']


@pytest.mark.parametrize('protocol', [2, 4])
def test_arrays_of_numpy_beside_the_tensors_are_passed_over(folder, protocol):
  # What pickle makes of one, without its head and its end.
  array = pickle.dumps(np.arange(3.0), protocol)
  body = array[11 if protocol == 4 else 2 : -1]
  state = hostile.mapping(x=hostile.tensor())
  whole = hostile.mapping(loss=body, state_dict=state)
  (folder / 'x.ckpt').write_bytes(hostile.of(whole))
  assert list(files.read_tensors('x.ckpt')) == ['x']


@pytest.mark.parametrize('index', [2**31, 2**32 - 1])
def test_a_huge_memo_index_costs_nothing(folder, index):
  put = b'r' + index.to_bytes(4, 'little')
  body = hostile.mapping(x=hostile.tensor() + put)
  (folder / 'x.ckpt').write_bytes(hostile.of(body))
  tracemalloc.start()
  assert list(files.read_tensors('x.ckpt')) == ['x']
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()


def test_legacy_files_need_the_flag(folder):
  (folder / 'x.ckpt').write_bytes(hostile.GOOD_LEGACY)
  with pytest.raises(UserError, match='--legacy reads it'):
    files.read_tensors('x.ckpt')


def test_reading_copies_nothing(folder):
  body = hostile.mapping(x=hostile.tensor(
      (2**20, 16), (16, 1), store=hostile.storage(count=2**24),
  ))  # fmt: skip
  big = {'archive/data/0': bytes(2**26)}
  (folder / 'x.ckpt').write_bytes(hostile.of(body, entries=big))
  tracemalloc.start()
  tensors = files.read_tensors('x.ckpt')
  assert tensors['x'].shape == (2**20, 16)
  assert tracemalloc.get_traced_memory()[1] < 2**22
  tracemalloc.stop()
